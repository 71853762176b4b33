"""Stages `reference` and `evaluate`: features of real and generated images, and the metrics between them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reals import files
from reals.arrays import save_npz
from reals.data.images import Images
from reals.experiment.registry import Artefact
from reals.machine.usage import work
from reals.measure import evaluation, extractors
from reals.measure.metrics.generation import Reference, generation_metrics, streamed_reference
from reals.progress import Progress
from reals.stages import classifiers
from reals.stages import sample as sampling
from reals.stages.context import Context
from reals.training.loop import OF_THE_MACHINE, read_log

BATCH = 256
PICTURES = 16  # first samples kept beside the metrics, for the figures: the same noise and labels in every evaluation
CURVE_POINTS = 100


def batches(array: np.ndarray | Images, count: int | None = None) -> Iterator[Tensor]:
    """uint8 [B, 3, H, W] tensors over an array of images or a data split."""
    total = len(array) if count is None else count
    for start in range(0, total, BATCH):
        stop = min(start + BATCH, total)
        block = array.batch(np.arange(start, stop)) if isinstance(array, Images) else np.array(array[start:stop])
        yield torch.from_numpy(block)


def reference(context: Context, artefact: Artefact) -> None:
    """Writes reference.npz: mu, sigma, mu_s, sigma_s (ADM's keys), how many images, pool features for P/R and KID.

    The statistics are of all training images (as ADM's are), the features those of a fixed random choice of them;
    or everything comes from ADM's own .npz where the scale names one.
    """
    folder = context.begin(artefact)
    judge = artefact.needed("extractor")
    extractor = classifiers.load_extractor(context, judge)
    config = context.scale.evaluation
    if config.reference is not None and judge is context.registry.extractor:
        found = evaluation.adm_reference(Path(config.reference), extractor, config.pr_reference, BATCH)
    else:
        images = context.images("train")
        progress = Progress(f"reference {artefact.name}", len(images))
        wanted = min(config.pr_reference, len(images))
        chosen = np.sort(np.random.default_rng(artefact.spec["rev"]).permutation(len(images))[:wanted])
        with work():
            features = (extractors.extract(extractor, [batch]) for batch in batches(images))
            found = evaluation.merged_reference([streamed_reference(_counted(features, progress), chosen)])
    arrays = evaluation.reference_arrays(found)
    files.write_atomically(folder / "reference.npz", lambda p: save_npz(p, **arrays))
    facts = {"images": found.pool.n, "pr_reference": len(found.features)}
    files.seal(folder, ["reference.npz"], extractor_sha256=classifiers.extractor_sha256(context, judge), **facts)


def _counted(batches: Iterator[extractors.Features], progress: Progress) -> Iterator[extractors.Features]:
    done = 0
    for features in batches:
        done += len(features)
        progress.update(done)
        yield features


def load_reference(context: Context, artefact: Artefact) -> Reference:
    """MissingArtefact where it is gone, damaged, or of another copy of its judge than the one that is here."""
    folder, judge = context.folder(artefact), artefact.needed("extractor")
    made_with = files.verified(folder).get("extractor_sha256")
    files.refuse_other_copy(classifiers.extractor_sha256(context, judge), made_with, context.folder(judge), folder)
    with np.load(folder / "reference.npz") as stored:
        return evaluation.reference_from({k: stored[k] for k in stored.files})


def protocol(context: Context, evaluation: str, real: Reference) -> dict[str, str | int | float]:
    """What a reader must know beside a generation metric."""
    registry, scale = context.registry, context.scale
    samples = registry.samples[evaluation]
    row, spec = registry.experiment.evaluations[evaluation], samples.spec
    seeds = {a.kind: a.spec.get("seed", "none") for a in (samples.needed("autoencoder"), samples.needed("run"))}
    sampler, stored = sampling.sampling_of(spec), scale.evaluation.reference
    guidance = (
        "none"
        if row.cfg == 1
        else f"{row.cfg:g} on {row.cfg_channels} channels"
        + (f" in {list(row.interval)} of {row.interval_time} time" if row.interval else "")
    )
    return {
        "scale": scale.name,
        "data": f"{scale.data.name} {scale.data.resolution}x{scale.data.resolution}",
        "training steps": spec["step"],
        "batch": scale.transformer.batch,
        "sampler": sampler.described,
        "network evaluations": sampler.evaluations or "adaptive",
        "guidance": guidance,
        "samples": spec["n"],
        "labels": spec["labels"],
        "feature network": scale.evaluation.extractor.name,
        **({"second judge": scale.evaluation.second.name} if scale.evaluation.second else {}),
        "reference": f"{real.pool.n} training images"
        if stored is None
        else f"statistics stored in {Path(stored).name}, {len(real.features)} of its images for precision and recall",
        "seeds": f"autoencoder {seeds['autoencoder']}, transformer {seeds['run']}, sampling {spec['seed']}",
    }


def curve(log: Path, upto: int | None = None) -> dict[str, list[float]]:
    """A training log thinned to at most 100 points: step and every column of the training that all records have."""
    records = [r for r in read_log(log) if upto is None or r["step"] <= upto]
    if not records:
        return {}
    thin = records[:: max(1, -(-len(records) // CURVE_POINTS))]
    keys = [k for k in thin[0] if k not in OF_THE_MACHINE and all(k in r for r in thin)]
    return {k: [round(r[k], 6) for r in thin] for k in keys}


def run(context: Context, artefact: Artefact) -> None:
    """Writes metrics.json of one evaluation (values, protocol, provenance and the run's loss curve) and its first samples."""
    registry, scale = context.registry, context.scale
    folder = context.begin(artefact)
    samples_artefact = artefact.needed("samples")
    samples = registry.folder(samples_artefact)
    shards = [np.load(samples / f"shard_{k:03d}.npy", mmap_mode="r") for k in range(registry.shards(samples_artefact))]
    n = sum(len(s) for s in shards)
    if n != samples_artefact.spec["n"]:
        raise ValueError(f"{samples} holds {n} samples, {samples_artefact.spec['n']} expected; delete the folder and run again")
    real = load_reference(context, registry.reference)
    extractor = classifiers.load_extractor(context)
    progress = Progress(f"features {artefact.name}", n)
    with work():
        found = extractors.extract(extractor, (b for s in shards for b in batches(s)), progress.update)
        values = generation_metrics(
            found, real, k=artefact.spec["pr_k"], pr_reference=len(real.features), split_size=artefact.spec["is_split"],
            kid_subset_size=max(2, min(1000, n // 2, len(real.features) // 2)), seed=scale.seeds.analysis,
        )  # fmt: skip
        if registry.second_reference is not None:
            other = classifiers.load_extractor(context, registry.second_extractor)
            theirs = extractors.extract(other, (b for s in shards for b in batches(s)))
            beside = load_reference(context, registry.second_reference)
            values["fid_second"] = generation_metrics(theirs, beside, pr_reference=0)["fid"]
    run_artefact = samples_artefact.needed("run")
    run_folder = registry.folder(run_artefact)
    first = np.array(shards[0][:PICTURES]).transpose(0, 2, 3, 1)
    files.write_atomically(folder / "pictures.npz", lambda p: save_npz(p, images=first))
    files.write_json(
        folder / "metrics.json",
        {
            "kind": "evaluation",
            "name": artefact.name,
            "id": artefact.id,
            "values": values,
            "protocol": protocol(context, artefact.name, real),
            "provenance": {
                **sampling.provenance(context, samples_artefact),
                "samples": samples_artefact.id,
                "samples_sha256": [
                    files.sha256(samples / f"shard_{k:03d}.npy") for k in range(registry.shards(samples_artefact))
                ],
                "reference": registry.reference.id,
                "extractor": registry.extractor.id,
                "made by code": files.code_version(),
            },
            "curve": curve(run_folder / "log.jsonl", samples_artefact.spec["step"]),
        },
    )
