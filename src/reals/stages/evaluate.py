"""Stage `evaluate`: the metrics between generated images and the reference."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from reals import files
from reals.arrays import save_npz
from reals.experiment.artefact import Artefact
from reals.experiment.metric_table import JUDGES, METRICS
from reals.experiment.specs import EvaluationSpec
from reals.machine.usage import work
from reals.measure.extractor import extract
from reals.measure.features import batches
from reals.measure.metrics.generation import Reference, distance, generation_metrics
from reals.measure.metrics.intervals import frechet_half_width
from reals.measure.metrics.kernel import CMMD_SIGMA, cmmd, subset_size
from reals.measure.record import how
from reals.method.precision import described
from reals.method.sampling import sampling_of
from reals.progress import Progress
from reals.stages.context import Context
from reals.stages.inputs import curve, extractor_sha256, load_extractor, load_reference, provenance_of_samples

PICTURES = 16  # first samples kept beside the metrics, for the figures: the same noise and labels in every evaluation


def protocol(
    context: Context, artefact: Artefact[EvaluationSpec], real: Reference, values: Mapping[str, float]
) -> dict[str, str | int | float]:
    """What a reader must know beside generation metrics: what was done, which is less than the scale asks for where there is less."""
    registry, scale = context.registry, context.scale
    samples = artefact.needed("samples")
    row, spec = registry.experiment.evaluations[artefact.name], samples.spec
    autoencoder, run = samples.needed("autoencoder").spec, samples.needed("run").spec
    sampler, stored = sampling_of(spec), scale.evaluation.reference
    guidance = (
        "none"
        if row.cfg == 1
        else f"{row.cfg:g} on {row.cfg_channels} channels"
        + (f" in {list(row.interval)} of {row.interval_time} time" if row.interval else "")
    )
    return {
        "scale": scale.name,
        "data": f"{scale.data.name} {scale.data.resolution}x{scale.data.resolution}",
        "training steps": spec.step,
        "batch": run.batch,
        **({"training times": run.times} if run.times else {}),
        **({"latents": "each channel normalised by its own mean and std"} if autoencoder.normalise else {}),
        "sampler": sampler.described,
        "network evaluations": sampler.evaluations or "adaptive",
        **({"sampling precision": described(spec.precision)} if spec.precision else {}),
        "guidance": guidance,
        "samples": spec.n,
        "labels": spec.labels,
        "feature extractor": scale.evaluation.extractor.name,
        **_judges(context),
        **how(
            {name: value for name, value in values.items() if name not in JUDGES},
            spec.n,
            len(real.features),
            artefact.spec.pr_k,
            artefact.spec.is_split,
            subset_size(spec.n, len(real.features)),
        ),
        "reference": f"{real.pool.n} training images"
        if stored is None
        else f"statistics stored in {Path(stored).name}, {len(real.features)} of its images for precision and recall",
        "seeds": f"autoencoder {'none' if autoencoder.seed is None else autoencoder.seed}, transformer {run.seed}, sampling {spec.seed}",
    }


def _judges(context: Context) -> dict[str, str]:
    """What the metrics on further extractors' features were made of."""
    said = {}
    for metric, judge in context.scale.evaluation.judges.items():
        if metric == "fid_second":
            said["second extractor"] = judge.name
            continue
        real = load_reference(context, context.registry.judge_references[metric])
        what = f"{judge.name}, against {len(real.features) if metric == 'cmmd' else real.pool.n} training images"
        said[METRICS[metric].printed] = what + (f", Gaussian kernel of sigma {CMMD_SIGMA}, biased" if metric == "cmmd" else "")
    return said


def measured(
    context: Context, artefact: Artefact[EvaluationSpec], shards: Sequence[np.ndarray], real: Reference
) -> dict[str, float]:
    """The metrics of samples uint8 [n_k, 3, R, R], and those that further feature extractors of the scale measure."""
    registry, spec, n = context.registry, artefact.spec, sum(map(len, shards))
    progress = Progress(f"features {artefact.name}", n)
    found = extract(load_extractor(context), (b for s in shards for b in batches(s)), progress.update)
    values = generation_metrics(
        found, real, k=spec.pr_k, pr_reference=len(real.features), split_size=spec.is_split,
        kid_subset_size=subset_size(n, len(real.features)), seed=context.scale.seeds.analysis,
    )  # fmt: skip
    if spec.intervals:
        values["fid_interval"] = frechet_half_width(found.pool, real.pool)
    for metric, reference in registry.judge_references.items():
        theirs = extract(load_extractor(context, registry.judges[metric]), (b for s in shards for b in batches(s))).pool
        beside = load_reference(context, reference)
        values[metric] = cmmd(theirs, beside.features) if metric == "cmmd" else distance(theirs, beside.pool)
    return values


def run(context: Context, artefact: Artefact[EvaluationSpec]) -> None:
    """Writes metrics.json of one evaluation (values, protocol, provenance and the run's loss curve) and its first samples."""
    registry = context.registry
    folder = context.begin(artefact)
    samples = artefact.needed("samples")
    paths = registry.outputs(samples)
    shards = [np.load(path, mmap_mode="r") for path in paths]
    if (n := sum(map(len, shards))) != samples.spec.n:
        raise ValueError(
            f"{registry.folder(samples)} holds {n} samples, {samples.spec.n} expected; delete the folder and run again"
        )
    real = load_reference(context, registry.reference)
    with work():
        values = measured(context, artefact, shards, real)
    first = np.array(shards[0][:PICTURES]).transpose(0, 2, 3, 1)
    files.write_atomically(folder / "pictures.npz", lambda p: save_npz(p, images=first))
    files.write_json(
        folder / "metrics.json",
        {
            "kind": "evaluation",
            "name": artefact.name,
            "id": artefact.id,
            "values": values,
            "protocol": protocol(context, artefact, real, values),
            "provenance": {
                **provenance_of_samples(context, samples),
                "samples": samples.id,
                "samples_sha256": [files.sha256(path) for path in paths],
                "reference": registry.reference.id,
                "extractor": registry.extractor.id,
                "extractor_sha256": extractor_sha256(context, registry.extractor),
                **{f"{JUDGES[m]}_extractor_sha256": extractor_sha256(context, judge) for m, judge in registry.judges.items()},
                "made by code": files.code_version(),
            },
            "curve": curve(registry.folder(samples.needed("run")) / "log.jsonl", samples.spec.step),
        },
    )
