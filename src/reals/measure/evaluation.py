"""From images to numbers: features in one pass (whole or in parts), references made and checked, the record of a metric."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reals import files, rng
from reals.measure.extractors import ADM_NETWORK, POOL_WIDTH, SPATIAL_WIDTH, Extractor, Features, extract, metric_name
from reals.measure.metrics.contributions import class_contributions
from reals.measure.metrics.features import finite_rows
from reals.measure.metrics.frechet import Moments, Statistics, read_adm_statistics
from reals.measure.metrics.generation import Measured, Reference, streamed_reference
from reals.measure.metrics.intervals import bootstrap_frechet, bootstrap_inception_score, bootstrap_share, centred_interval
from reals.measure.sources import Source, open_source, open_zip, whole
from reals.progress import Progress

ADM_SAMPLES, ADM_PR_REFERENCE, ADM_SPLIT, ADM_K = 50_000, 10_000, 5000, 3
_FIELDS = ("pool", "spatial", "logits")


# Features


def own_rows(n: int, batch: int, shard: int, shards: int) -> tuple[int, int]:
    """(start, stop) of one shard: whole batches of the undivided run, so that every network call is the same call."""
    count = -(-n // batch)
    return min(n, batch * (count * shard // shards)), min(n, batch * (count * (shard + 1) // shards))


@dataclass
class Clock:
    """Seconds spent in the network, and in all."""

    network: float = 0.0
    total: float = 0.0

    def around(self, extractor: Extractor) -> Extractor:
        """The same extractor, timed."""

        def features(images: Tensor) -> Features:
            began = time.perf_counter()
            found = extractor.features(images)
            self.network += time.perf_counter() - began
            return found

        return replace(extractor, features=features)

    def facts(self, n: int) -> dict:
        """What the record says about the time: how much of it was not the network's."""
        rest = self.total - self.network
        return {"seconds": self.total, "images_per_second": n / self.total, "share_outside_network": rest / self.total}


def feature_batches(
    source: Source, extractor: Extractor, start: int, stop: int, batch: int, progress: Callable[[int], None] | None = None
) -> Iterator[Features]:
    """Features of images start to stop, batch by batch; ValueError naming the first image whose features are not finite."""
    for images in source.batches(start, stop, batch):
        found = extract(extractor, [images])
        finite_rows(found.pool, f"features of {source.path}", first=start)
        start += len(found)
        if progress is not None:
            progress(start)
        yield found


def joined(parts: list[Features]) -> Features:
    """Features of all parts, in their order."""
    return Features(*(torch.cat([getattr(p, field) for p in parts]) for field in _FIELDS))


def save_arrays(path: Path, facts: dict, arrays: dict[str, np.ndarray]) -> None:
    """An .npz of arrays with ``facts`` (JSON) inside, written whole or not at all."""

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            np.savez(file, facts=np.array(json.dumps(facts)), **arrays)

    files.write_atomically(path, write)


def load_arrays(path: Path) -> tuple[dict | None, dict[str, np.ndarray]]:
    """(facts, arrays) of an .npz; facts are None where it has none. ValueError where it is damaged."""
    open_zip(path).close()
    with whole(path), np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    facts = arrays.pop("facts", None)
    return None if facts is None else json.loads(str(facts)), arrays


def part_path(path: Path, shard: int, shards: int) -> Path:
    """Where one shard of ``path`` lies: name.00k-of-00n.npz."""
    return path.with_name(f"{path.stem}.{shard:03d}-of-{shards:03d}{path.suffix}")


def parts_of(path: Path) -> list[Path]:
    """The parts of ``path`` beside it, in order, [] if there is none; ValueError where one is missing."""
    found = sorted(path.parent.glob(f"{path.stem}.[0-9][0-9][0-9]-of-[0-9][0-9][0-9]{path.suffix}"))
    if not found:
        return []
    totals = {int(p.name[: -len(path.suffix)].rsplit("-of-", 1)[1]) for p in found}
    if len(totals) > 1:
        raise ValueError(f"{path}: parts of {' and of '.join(map(str, sorted(totals)))} shards lie beside it; delete one kind")
    shards = totals.pop()
    missing = [part_path(path, k, shards) for k in range(shards) if not part_path(path, k, shards).exists()]
    if missing:
        raise ValueError(f"{missing[0]}: missing ({len(missing)} of {shards} parts); run that shard first")
    return found


def checked_facts(path: Path, found: dict | None, expected: dict) -> None:
    """ValueError where a cached file was made from, or with, something else than ``expected``."""
    if found is None:
        raise ValueError(f"{path}: was not written by this program; give another file name")
    for name, value in expected.items():
        if found.get(name) != value:
            raise ValueError(
                f"{path}: {name} is {_short(found.get(name))}, {_short(value)} expected; "
                "it belongs to other samples or settings, so delete it or name another file"
            )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:16] + "..."


def save_features(path: Path, features: Features, facts: dict) -> None:
    save_arrays(path, facts, {field: getattr(features, field).numpy() for field in _FIELDS})


def load_features(path: Path, facts: dict) -> Features:
    """Features saved with these very ``facts``; ValueError otherwise."""
    found, arrays = load_arrays(path)
    checked_facts(path, found, facts)
    return Features(*(torch.from_numpy(arrays[field]) for field in _FIELDS))


def features_of_shard(
    source: Source, extractor: Extractor, n: int, batch: int, path: Path, facts: dict, shard: tuple[int, int]
) -> None:
    """Writes one shard's part of the features of the first n images beside ``path``."""
    start, stop = own_rows(n, batch, *shard)
    out = part_path(path, *shard)
    progress = Progress(f"features, part {shard[0]} of {shard[1]}", max(stop - start, 1))
    found = list(feature_batches(source, extractor, start, stop, batch, lambda done: progress.update(done - start)))
    features = joined(found) if found else _no_features(source, extractor)
    save_features(out, features, facts | {"start": start, "stop": stop})
    absent = [k for k in range(shard[1]) if not part_path(path, k, shard[1]).exists()]
    rest = f"parts {', '.join(map(str, absent))} are missing" if absent else "all parts are here: run without --shard"
    print(f"{out}: images {start} to {stop - 1}; {rest}")


def _no_features(source: Source, extractor: Extractor) -> Features:
    """Features of no image, in the right widths: of a shard beyond the last batch."""
    one = extract(extractor, source.batches(0, 1, 1))
    return Features(*(getattr(one, field)[:0] for field in _FIELDS))


def features_of(
    source: Source, extractor: Extractor, n: int, batch: int, path: Path | None, facts: dict, clock: Clock
) -> Features:
    """Features of the first n images: from ``path`` or its parts if they are there, else made (and kept in ``path``)."""
    if path is not None and path.exists():
        return load_features(path, facts)
    parts = parts_of(path) if path is not None else []
    if parts:
        start, found = 0, []
        for part in parts:
            stop = own_rows_of(part)[1]
            found.append(load_features(part, facts | {"start": start, "stop": stop}))
            start = stop
        if start != n:
            raise ValueError(f"{parts[-1]}: the parts end at image {start}, {n} expected; make them with one --n and --batch")
        return joined(found)
    progress = Progress("features", n)
    began = time.perf_counter()
    features = joined(list(feature_batches(source, clock.around(extractor), 0, n, batch, progress.update)))
    clock.total = time.perf_counter() - began
    if path is not None:
        save_features(path, features, facts)
    return features


def own_rows_of(part: Path) -> tuple[int, int]:
    """(start, stop) that a part's facts state."""
    open_zip(part).close()
    with whole(part), np.load(part, allow_pickle=False) as stored:
        facts = json.loads(str(stored["facts"])) if "facts" in stored.files else {}
    if "start" not in facts:
        raise ValueError(f"{part}: is not a part written by --shard; delete it")
    return facts["start"], facts["stop"]


# References


def has_statistics(path: Path) -> bool:
    """Whether ``path`` is an .npz with ADM's stored statistics (and not a reference file of ours)."""
    if path.suffix != ".npz" or not path.is_file():
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
    """`read_adm_statistics`; ValueError where the file is damaged or its statistics are of other features than ADM's network's."""
    with whole(path):
        pool, spatial = read_adm_statistics(path, n)
    for name, found, width in (("mu", pool, POOL_WIDTH), ("mu_s", spatial, SPATIAL_WIDTH)):
        if found.mu.shape != (width,) or found.sigma.shape != (width, width):
            raise ValueError(
                f"{path}: {name} and its covariance are {tuple(found.mu.shape)} and {tuple(found.sigma.shape)}, those of {ADM_NETWORK} "
                f"are ({width},) and ({width}, {width}); make a reference from the images with `reals reference`"
            )
    return pool, spatial


def adm_reference(path: Path, extractor: Extractor, count: int, batch: int, progress=None) -> Reference:
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


def made_reference(source: Source, extractor: Extractor, count: int, seed: int, batch: int, progress=None) -> Reference:
    """The reference made of all of a source's images, ``count`` of them (drawn by ``seed``) kept for P/R and KID."""
    chosen = reference_rows(len(source), count, seed)
    batches = feature_batches(source, extractor, 0, len(source), batch, progress)
    return merged_reference([streamed_reference(batches, chosen)])


def reference_in_parts(
    source: Source,
    extractor: Extractor,
    count: int,
    seed: int,
    batch: int,
    path: Path,
    facts: dict,
    shard: tuple[int, int] | None,
) -> Reference | None:
    """The reference of a source: made here, or one ``shard`` of it written (None), or the parts beside ``path`` merged."""
    if shard is None:
        parts = parts_of(path)
        if not parts:
            progress = Progress("reference", len(source))
            return made_reference(source, extractor, count, seed, batch, progress.update)
        loaded, start = [], 0
        for part in parts:
            stop = own_rows_of(part)[1]
            found, a = load_arrays(part)
            # The code may have changed between parts; what it does to features is in the network's checksum.
            stated = {name: value for name, value in facts.items() if name != "made by code"}
            checked_facts(part, found, stated | {"start": start, "stop": stop, "pr_reference": count})
            moments = [Moments.from_dict({k: a[f"{name}_{k}"] for k in ("n", "mean", "scatter")}) for name in _FIELDS[:2]]
            loaded.append((*moments, torch.from_numpy(a["features"])))
            start = stop
        if start != len(source):
            raise ValueError(f"{parts[-1]}: the parts end at image {start}, {len(source)} expected; make them with one --batch")
        return merged_reference(loaded)
    start, stop = own_rows(len(source), batch, *shard)
    if start == stop:
        raise ValueError(f"--shard {shard[0]}/{shard[1]}: no image is left for it; take fewer shards or a smaller --batch")
    chosen = reference_rows(len(source), count, seed)
    chosen = chosen[(chosen >= start) & (chosen < stop)] - start
    progress = Progress(f"reference, part {shard[0]} of {shard[1]}", stop - start)
    batches = feature_batches(source, extractor, start, stop, batch, lambda done: progress.update(done - start))
    *moments, features = streamed_reference(batches, chosen)
    arrays = {f"{name}_{k}": v for name, m in zip(_FIELDS, moments, strict=False) for k, v in m.to_dict().items()}
    out = part_path(path, *shard)
    save_arrays(out, facts | {"start": start, "stop": stop, "pr_reference": count}, arrays | {"features": features.numpy()})
    print(f"{out}: images {start} to {stop - 1}; when all parts are there, run without --shard")
    return None


def any_reference(
    path: Path,
    extractor: Extractor,
    size: tuple[int, int],
    count: int,
    seed: int,
    batch: int,
    value_range: str,
    allow_fewer: bool,
) -> tuple[Reference, dict]:
    """A reference from whatever ``path`` is, and its facts: a cached file, ADM's .npz, or real images, measured here.

    ``count`` images are kept for precision and recall. ValueError for another network or resolution, and for fewer
    images than ``count`` unless ``allow_fewer``.
    """
    if path.suffix == ".npz" and path.is_file() and "facts.npy" in open_zip(path).namelist():
        reference, facts = checked_reference(path, extractor, size)
        kept = _enough(path, len(reference.features), count, allow_fewer)
        if kept < len(reference.features):  # not the first: the rows lie by class
            rows = torch.from_numpy(reference_rows(len(reference.features), kept, seed))
            reference = replace(reference, features=reference.features[rows])
        return reference, facts
    stored = has_statistics(path)
    if stored and extractor.name == ADM_NETWORK and "arr_0.npy" not in open_zip(path).namelist():
        if count:
            raise ValueError(f"{path}: has no images (arr_0) for precision and recall; pass --pr-reference 0 to go without them")
        statistics = _adm_statistics(path, 0)
        reference = Reference(*statistics, torch.zeros(0, len(statistics[0].mu)))
        return reference, {"statistics": "stored in the file", "images": None, "source": path.name,
                           "source_sha256": files.sha256(path), "size": None}  # fmt: skip
    source = open_source(path, value_range)
    same_size(path, source.size, size)
    kept = _enough(path, len(source), count, allow_fewer)
    if stored and extractor.name == ADM_NETWORK:
        progress = Progress("reference", max(kept, 1))
        reference = adm_reference(path, extractor, kept, batch, progress.update)
        return reference, reference_facts(extractor, source, "stored in the file", None, seed, value_range)
    progress = Progress("reference", len(source))
    reference = made_reference(source, extractor, kept, seed, batch, progress.update)
    return reference, reference_facts(extractor, source, "computed", len(source), seed, value_range)


def _enough(path: Path, have: int, count: int, allow_fewer: bool) -> int:
    if have < count and not allow_fewer:
        raise ValueError(
            f"{path}: {have} reference images, {count} asked for precision and recall; add images, pass --allow-fewer "
            "(the result will say so), or set --pr-reference"
        )
    return min(have, count)


def range_facts(value_range: str) -> dict:
    """What floating images were taken to mean, where that was said: other numbers, so part of what a file was made from."""
    return {} if value_range == "bytes" else {"range": value_range}


def reference_facts(
    extractor: Extractor, source: Source, statistics: str, images: int | None, seed: int, value_range: str
) -> dict:
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
    }


def checked_reference(path: Path, extractor: Extractor, size: tuple[int, int]) -> tuple[Reference, dict]:
    """A cached reference file and its facts; ValueError where it is of another network or resolution."""
    facts, arrays = load_arrays(path)
    if facts is None or "network_sha256" not in facts or "features" not in arrays:
        raise ValueError(f"{path}: not a reference file of this program; make one with `reals reference`")
    if facts["network"] != extractor.name:
        raise ValueError(f"{path}: made with network {facts['network']}, the samples' is {extractor.name}; use one for both")
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


# The record


def record(
    source: Source, extractor: Extractor, reference: Reference, real: dict, found: Measured, n: int, asked: int, pr: int,
    pr_asked: int, seed: int,
) -> dict:  # fmt: skip
    """Everything a reader must know beside the numbers, which stand under ``metrics``."""
    adm = extractor.name == ADM_NETWORK
    notes = list(source.notes)
    if n < asked:
        notes.append(f"fewer samples than asked: {n} of {asked}")
    if pr < pr_asked:
        notes.append(f"fewer reference images for precision and recall than asked: {pr} of {pr_asked}")
    if adm and n != ADM_SAMPLES:
        notes.append(f"not comparable with published FID-50K: {n} samples, {ADM_SAMPLES} in ADM's protocol")
    if adm and pr not in (0, ADM_PR_REFERENCE):
        notes.append(f"precision and recall against {pr} reference images, {ADM_PR_REFERENCE} in ADM's protocol")
    if len(source) > n:
        notes.append(f"the first {n} of {len(source)} images")
    if "is" in found.values and source.labels is not None and n > 1 and (np.diff(source.labels[:n]) >= 0).all():
        notes.append("the samples are sorted by class: the Inception Score, of consecutive splits, is too low")
    if real["size"] is None:
        notes.append("the reference file does not say its resolution: it was not compared with the samples'")
    elif real["statistics"] == "computed" and real["images"] <= reference.pool.mu.numel():
        notes.append(f"the reference covariance is of {real['images']} images in {reference.pool.mu.numel()} dimensions")
    return {
        "metrics": named(found.values, extractor.name),
        "n": n,
        "asked": asked,
        "fewer_than_asked": n < asked or pr < pr_asked,
        "notes": notes,
        "protocol": {
            "feature network": extractor.name,
            "input": "bytes, resized as the network's own protocol does",
            "FID": "pool features, covariance divisor n - 1, float64, symmetric eigenvalues",
            "sFID": "first 7 channels of the 17x17 1x1 branch of Mixed_6d" if adm else "first 7 channels of the network's map",
            "IS": f"no bias, splits of {ADM_SPLIT} in file order" if adm else f"splits of {ADM_SPLIT} in file order",
            "precision and recall": f"k = {ADM_K}, {pr} reference images against {n} samples",
            "KID": "100 subsets of at most 1000, cubic kernel",
            "seed": seed,
        },
        "samples": {
            "path": str(source.path), "kind": source.kind, "images": len(source), "size": list(source.size),
            "sha256": source.sha256,
        },
        "reference": real,
        "network": {"name": extractor.name, "sha256": extractor.sha256},
        "versions": versions(extractor.name),
    }  # fmt: skip


def summary(record: dict) -> str:
    """One line: the metrics, how many samples, and every note."""
    shown = "  ".join(f"{name} {value:.4f}" for name, value in record["metrics"].items() if "std" not in name)
    notes = "".join(f"; {note}" for note in record["notes"])
    return f"{shown}  (n={record['n']}{notes})"


def named(values: dict[str, float], network: str) -> dict[str, float]:
    """Values under their printed names: ADM's own only with ADM's network."""
    out = {}
    for key, value in values.items():
        out[f"{metric_name('is', network)} std over splits" if key == "is_std" else metric_name(key, network)] = value
    return out


def bootstrap(
    samples: Features, reference: Reference, found: Measured, split_size: int, replicates: int, seed: int
) -> dict[str, dict[str, float]]:
    """95% intervals of FID, sFID, IS, precision and recall, by metric key: std, low, high."""
    values = {"fid": bootstrap_frechet(samples.pool, reference.pool, replicates, seed)}
    if "sfid" in found.values:
        values["sfid"] = bootstrap_frechet(samples.spatial, reference.spatial, replicates, seed)
    if "is" in found.values:
        values["is"] = bootstrap_inception_score(samples.logits, split_size, replicates, seed)
    if found.samples_in is not None:
        values["precision"] = bootstrap_share(found.samples_in, replicates, seed)
        values["recall"] = bootstrap_share(found.reference_in, replicates, seed)
    return {name: centred_interval(found.values[name], x)._asdict() for name, x in values.items()}


def per_class(samples: Features, labels: np.ndarray, classes: tuple[str, ...] | None, reference: Reference) -> dict:
    """Each class's share of the FID (:func:`class_contributions`), with its number of samples."""
    count = int(labels.max()) + 1 if classes is None else len(classes)
    names = classes or tuple(map(str, range(count)))
    found = class_contributions(samples.pool, torch.from_numpy(labels), count, reference.pool)
    rows = zip(names, found.share.tolist(), found.count.tolist(), strict=True)
    return {
        "what": "sum over the class's samples of their squared distance to the reference under the optimal linear map, over n; "
        "shares and remainder sum to the FID",
        "classes": {name: {"share": share, "samples": n} for name, share, n in rows if n},
        "remainder": found.remainder,
    }


def versions(network: str) -> dict[str, str]:
    """Of everything that can change a digit."""
    import PIL

    found = {"reals": files.code_version(), "python": platform.python_version()}
    found |= {"torch": torch.__version__, "numpy": np.__version__, "pillow": PIL.__version__}
    if network == ADM_NETWORK:
        import torch_fidelity

        found["torch-fidelity"] = torch_fidelity.__version__
    else:
        import timm

        found["timm"] = timm.__version__
    return found
