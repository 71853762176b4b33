"""References: statistics and features of real images, made, stored, read and checked against the samples."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reals import files, rng
from reals.experiment.metric_table import ADM_EXTRACTOR
from reals.measure.extractor import POOL_WIDTH, SPATIAL_WIDTH, Extractor, joined
from reals.measure.features import feature_batches
from reals.measure.metrics.frechet import Moments, Statistics, no_statistics, read_adm_statistics
from reals.measure.metrics.generation import Reference, streamed_reference
from reals.measure.record import ADM_K
from reals.measure.source import Source
from reals.measure.sources.archive import open_zip, whole
from reals.measure.sources.by_path import open_source
from reals.measure.stored import Facts, checked_facts, load_arrays, own_rows, own_rows_of, part_path, save_arrays
from reals.progress import Progress


def has_statistics(path: Path) -> bool:
    """Whether ``path`` is an .npz with ADM's stored statistics (and not a reference file of ours)."""
    if path.suffix.lower() != ".npz" or not path.is_file():
        return False
    names = set(open_zip(path).namelist())
    return {"mu.npy", "sigma.npy"} <= names and "facts.npy" not in names


def reference_arrays(reference: Reference) -> dict[str, np.ndarray]:
    """The arrays of a reference file: ADM's ``mu``, ``sigma``, ``mu_s``, ``sigma_s``, then ``features`` and ``n``."""
    pool, spatial = reference.pool, reference.spatial
    arrays = {"mu": pool.mu, "sigma": pool.sigma, "mu_s": spatial.mu, "sigma_s": spatial.sigma, "features": reference.features}
    return {name: np.asarray(value) for name, value in arrays.items()} | {"n": np.array(pool.n)}


def reference_from(arrays: dict[str, np.ndarray]) -> Reference:
    """The inverse of :func:`reference_arrays`."""
    a = {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}
    n = int(a["n"])
    return Reference(Statistics(a["mu"], a["sigma"], n), Statistics(a["mu_s"], a["sigma_s"], n), a["features"])


def _adm_statistics(path: Path, n: int) -> tuple[Statistics, Statistics]:
    """`read_adm_statistics`; ValueError where the file is damaged or its statistics are of the features of another extractor than ADM's."""
    with whole(path):
        pool, spatial = read_adm_statistics(path, n)
    for name, found, width in (("mu", pool, POOL_WIDTH), ("mu_s", spatial, SPATIAL_WIDTH)):
        if found.mu.shape != (width,) or found.sigma.shape != (width, width):
            raise ValueError(
                f"{path}: {name} and its covariance are {tuple(found.mu.shape)} and {tuple(found.sigma.shape)}, those of {ADM_EXTRACTOR} "
                f"are ({width},) and ({width}, {width}); make a reference from the images with `reals reference`"
            )
        if fault := no_statistics(found.mu, found.sigma):
            raise ValueError(f"{path}: {name} and its covariance: {fault}; copy or make it again")
    return pool, spatial


def adm_reference(
    path: Path, extractor: Extractor, count: int, batch: int, progress: Callable[[int], None] | None = None
) -> Reference:
    """ADM's reference .npz: its stored statistics, and pool features of its first ``count`` images.

    The file does not say how many images its statistics are of; ``n`` is the number of images in it. ValueError
    where it lacks statistics or images, or holds fewer than ``count``.
    """
    source = open_source(path)
    if len(source) < count:
        raise ValueError(f"{path}: holds {len(source)} images, {count} are asked for as precision/recall reference")
    pool, spatial = _adm_statistics(path, len(source))
    found = joined(list(feature_batches(source, extractor, 0, count, batch, progress))) if count else None
    return Reference(pool, spatial, found.pool if found else torch.zeros(0, len(pool.mu)))


def reference_rows(n: int, count: int, seed: int) -> np.ndarray:
    """Sorted row numbers of the images kept for precision and recall: a random choice, as files are sorted by class."""
    return np.sort(rng.permutation(seed, "reference features", n=n)[:count])


def merged_reference(parts: list[tuple[Moments, Moments, Tensor]]) -> Reference:
    """The reference of all parts, in their order; moments agree with the undivided ones to rounding (1e-12)."""
    pool, spatial, _ = parts[0]
    for other_pool, other_spatial, _ in parts[1:]:
        pool.merge(other_pool)
        spatial.merge(other_spatial)
    return Reference(pool.finalize(), spatial.finalize(), torch.cat([features for *_, features in parts]))


def made_reference(
    source: Source, extractor: Extractor, count: int, seed: int, batch: int, progress: Callable[[int], None] | None = None
) -> Reference:
    """The reference made of all of a source's images, ``count`` of them (drawn by ``seed``) kept for P/R and KID."""
    chosen = reference_rows(len(source), count, seed)
    batches = feature_batches(source, extractor, 0, len(source), batch, progress)
    return merged_reference([streamed_reference(batches, chosen)])


def reference_of_shard(
    source: Source,
    extractor: Extractor,
    count: int,
    seed: int,
    batch: int,
    path: Path,
    facts: Facts,
    shard: tuple[int, int],
) -> None:
    """Writes one shard's part of the reference of a source beside ``path``."""
    start, stop = own_rows(len(source), batch, *shard)
    if start == stop:
        raise ValueError(f"--shard {shard[0]}/{shard[1]}: no image is left for it; take fewer shards or a smaller --batch")
    chosen = reference_rows(len(source), count, seed)
    chosen = chosen[(chosen >= start) & (chosen < stop)] - start
    progress = Progress(f"reference, part {shard[0]} of {shard[1]}", stop - start)
    batches = feature_batches(source, extractor, start, stop, batch, lambda done: progress.update(done - start))
    pool, spatial, features = streamed_reference(batches, chosen)
    moments = {f"{name}_{k}": v for name, m in (("pool", pool), ("spatial", spatial)) for k, v in m.to_dict().items()}
    out = part_path(path, *shard)
    save_arrays(out, facts | {"start": start, "stop": stop, "pr_reference": count}, moments | {"features": features.numpy()})
    print(f"{out}: images {start} to {stop - 1}; when all parts are there, run without --shard")


def reference_of_parts(parts: list[Path], images: int, count: int, facts: Facts) -> Reference:
    """The reference of ``images`` images whose parts were written by :func:`reference_of_shard`; ValueError where they do not fit."""
    loaded, start = [], 0
    # The code may have changed between parts; what it does to features is in the extractor's checksum.
    stated = {name: value for name, value in facts.items() if name != "made by code"}
    for part in parts:
        stop = own_rows_of(part)[1]
        found, a = load_arrays(part)
        checked_facts(part, found, stated | {"start": start, "stop": stop, "pr_reference": count})
        pool, spatial = (
            Moments.from_dict({k: a[f"{name}_{k}"] for k in ("n", "mean", "scatter")}) for name in ("pool", "spatial")
        )
        loaded.append((pool, spatial, torch.from_numpy(a["features"])))
        start = stop
    if start != images:
        raise ValueError(f"{parts[-1]}: the parts end at image {start}, {images} expected; make them with one --batch")
    return merged_reference(loaded)


def any_reference(
    path: Path,
    extractor: Extractor,
    size: tuple[int, int],
    count: int,
    seed: int,
    batch: int,
    value_range: str,
    allow_fewer: bool,
) -> tuple[Reference, Facts]:
    """A reference from whatever ``path`` is, and its facts: a cached file, ADM's .npz, or real images, measured here.

    ``count`` images are kept for precision and recall. ValueError for another extractor or resolution, and for fewer
    images than ``count`` unless ``allow_fewer``.
    """
    if path.suffix.lower() == ".npz" and path.is_file() and "facts.npy" in open_zip(path).namelist():
        reference, facts = checked_reference(path, extractor, size)
        _refuse_few_neighbours(path, len(reference.features), count)
        kept = _enough(path, len(reference.features), count, allow_fewer)
        if kept < len(reference.features):  # not the first: the rows lie by class
            rows = torch.from_numpy(reference_rows(len(reference.features), kept, seed))
            reference = replace(reference, features=reference.features[rows])
        return reference, facts
    stored = has_statistics(path)
    if stored and extractor.name == ADM_EXTRACTOR and "arr_0.npy" not in open_zip(path).namelist():
        if count:
            raise ValueError(f"{path}: has no images (arr_0) for precision and recall; pass --pr-reference 0 to go without them")
        statistics = _adm_statistics(path, 0)
        reference = Reference(*statistics, torch.zeros(0, len(statistics[0].mu)))
        return reference, {
            "statistics": "stored in the file",
            "images": None,
            "source": path.name,
            "source_sha256": files.sha256(path),
            "size": None,
        }
    source = open_source(path, value_range)
    refuse_few(path, len(source), count, computed=not (stored and extractor.name == ADM_EXTRACTOR))
    same_size(path, source.size, size)
    kept = _enough(path, len(source), count, allow_fewer)
    if stored and extractor.name == ADM_EXTRACTOR:
        progress = Progress("reference", max(kept, 1))
        reference = adm_reference(path, extractor, kept, batch, progress.update)
        return reference, reference_facts(extractor, source, "stored in the file", None, seed, value_range)
    progress = Progress("reference", len(source))
    reference = made_reference(source, extractor, kept, seed, batch, progress.update)
    return reference, reference_facts(extractor, source, "computed", len(source), seed, value_range)


def refuse_few(path: Path, have: int, count: int, computed: bool = True) -> None:
    """ValueError where real images are too few for a covariance that is ``computed``, or for precision and recall if ``count`` are
    asked for."""
    if computed and have < 2:
        raise ValueError(f"{path}: {have} reference image, at least 2 are needed for a covariance; add images")
    _refuse_few_neighbours(path, have, count)


def _refuse_few_neighbours(path: Path, have: int, count: int) -> None:
    if count and have <= ADM_K:
        raise ValueError(
            f"{path}: {have} reference images, but precision and recall look at the {ADM_K} nearest of each; add images, or pass "
            "--pr-reference 0 to go without them"
        )


def _enough(path: Path, have: int, count: int, allow_fewer: bool) -> int:
    if have < count and not allow_fewer:
        raise ValueError(
            f"{path}: {have} reference images, {count} asked for precision and recall; add images, pass --allow-fewer "
            "(the result will say so), or set --pr-reference"
        )
    return min(have, count)


def range_facts(value_range: str) -> Facts:
    """What floating images were taken to mean, where that was said: other numbers, so part of what a file was made from."""
    return {} if value_range == "bytes" else {"range": value_range}


def reference_facts(
    extractor: Extractor, source: Source, statistics: str, images: int | None, seed: int, value_range: str
) -> Facts:
    """What :func:`checked_reference` compares, and what a reader must know."""
    return {
        "network": extractor.name,
        "network_sha256": extractor.sha256,
        "size": list(source.size),
        "statistics": statistics,
        "images": images,
        "source": source.path.name,
        "source_sha256": source.sha256,
        "seed": seed,
        "made by code": files.code_version(),
        **range_facts(value_range),
        **({"notes": list(source.notes)} if source.notes else {}),
    }


def checked_reference(path: Path, extractor: Extractor, size: tuple[int, int]) -> tuple[Reference, Facts]:
    """A cached reference file and its facts; ValueError where it is of another extractor or resolution."""
    facts, arrays = load_arrays(path)
    if facts is None or "network_sha256" not in facts or "features" not in arrays:
        raise ValueError(f"{path}: not a reference file of this program; make one with `reals reference`")
    if facts["network"] != extractor.name:
        raise ValueError(
            f"{path}: made with the extractor {facts['network']}, the samples' is {extractor.name}; use one for both"
        )
    if facts["network_sha256"] != extractor.sha256:
        raise ValueError(f"{path}: made with other weights of {extractor.name}; make the reference again with these")
    same_size(path, tuple(facts["size"]), size)
    return reference_from(arrays), facts


def same_size(path: Path, reference: tuple[int, int], samples: tuple[int, int]) -> None:
    """ValueError unless both have the same (height, width)."""
    if tuple(reference) != tuple(samples):
        raise ValueError(
            f"{path}: images are {reference[1]}x{reference[0]}, the samples {samples[1]}x{samples[0]}; "
            "nothing is resized here, so crop the reference like the samples"
        )
