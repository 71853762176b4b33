"""What is measured: samples against a reference, autoencoders, and maps read from samples."""

from collections.abc import Mapping
from pathlib import Path

from reals.experiment.artefact import Artefact
from reals.experiment.datasets import LabelsConfig
from reals.experiment.load import Experiment
from reals.experiment.metric_table import JUDGES
from reals.experiment.reading import ConfigError
from reals.experiment.resolve.shared import Source, Sources, id_of, lpips, made_of, values_of
from reals.experiment.specs import (
    AnalysisSpec,
    AugmentationsSpec,
    AutoencoderSpec,
    DataSpec,
    DownstreamSpec,
    EvaluationSpec,
    ExtractorSpec,
    LabelsSpec,
    ReferenceSpec,
    SamplesSpec,
)


def reference(experiment: Experiment, data: Artefact[DataSpec], extractor: Artefact[ExtractorSpec]) -> Artefact[ReferenceSpec]:
    config = experiment.scale.evaluation
    spec = ReferenceSpec(
        data=data.id, extractor=extractor.id, source=config.reference and Path(config.reference).name,
        pr_reference=config.pr_reference, seed=None if config.reference else experiment.scale.seeds.analysis,
        chosen=None,
    )  # fmt: skip
    return Artefact(data.name, spec, (data, extractor))


def judge_reference(
    experiment: Experiment, metric: str, data: Artefact[DataSpec], extractor: Artefact[ExtractorSpec]
) -> Artefact[ReferenceSpec]:
    """By a further feature extractor: always of the training images, since published statistics are of the first."""
    spec = ReferenceSpec(
        data=data.id, extractor=extractor.id, source=None, pr_reference=experiment.scale.evaluation.pr_reference,
        seed=experiment.scale.seeds.analysis, chosen=True if metric == "cmmd" else None,
    )  # fmt: skip
    return Artefact(f"{data.name}_{extractor.name}", spec, (data, extractor))


def evaluation(
    experiment: Experiment, samples: Artefact[SamplesSpec], reference: Artefact[ReferenceSpec],
    judges: Mapping[str, Artefact[ReferenceSpec]],
) -> Artefact[EvaluationSpec]:  # fmt: skip
    paper = experiment.paper
    by_key = {key: id_of(judges.get(metric)) for metric, key in JUDGES.items()}
    spec = EvaluationSpec(
        samples=samples.id, reference=reference.id, pr_k=paper.pr_k, is_split=paper.is_split,
        seed=experiment.scale.seeds.analysis, **by_key, intervals=experiment.scale.evaluation.intervals or None,
    )  # fmt: skip
    return Artefact(samples.name, spec, made_of(samples, reference, *judges.values()))


def analysis(
    experiment: Experiment, data: Artefact[DataSpec], autoencoder: Artefact[AutoencoderSpec], extractor: Artefact[ExtractorSpec]
) -> Artefact[AnalysisSpec]:
    scale, paper = experiment.scale, experiment.paper
    drawn = autoencoder.name in experiment.figures.figure1["autoencoders"]
    spec = AnalysisSpec(
        data=data.id, autoencoder=autoencoder.id, extractor=extractor.id, **values_of(scale.analysis),
        tsne_drawn=None if drawn else False,
        augmentations=AugmentationsSpec(**values_of(paper.augmentations)), knn_k=paper.knn_k, seed=scale.seeds.analysis,
        lpips=lpips(experiment),
    )  # fmt: skip
    return Artefact(autoencoder.name, spec, (data, autoencoder, extractor))


def downstream(
    experiment: Experiment, samples: Artefact[SamplesSpec], data: Artefact[DataSpec], sources: Sources,
    autoencoders: Mapping[str, Artefact[AutoencoderSpec]],
) -> Artefact[DownstreamSpec]:  # fmt: skip
    """Raises ConfigError where the samples' autoencoder has no align network of patches."""
    scale, config = experiment.scale, experiment.scale.downstream
    row = experiment.autoencoders[experiment.runs[experiment.evaluations[samples.name].run].autoencoder]
    if row.teacher is None or not row.patch:
        raise ConfigError(f"figures.yaml: {samples.name} has no patch alignment; Figures 3 and 4 need an aligned autoencoder")
    source, base = sources.of(row.teacher, patches=True), None
    if config.target == "labelled":  # images of their own: no cache of features holds them
        source, base = Source(teacher=sources.teachers[row.teacher]), autoencoders[row.init]
    spec = DownstreamSpec(
        samples=samples.id, data=data.id, **source.ids, autoencoder=id_of(base), target=config.target, steps=config.steps,
        batch=config.batch, lr=config.lr, segmentation=_labels(config.segmentation), depth=_labels(config.depth),
        held_out_images=scale.analysis.images, gallery=scale.sampling.gallery, seed=scale.seeds.analysis,
    )  # fmt: skip
    return Artefact(samples.name, spec, made_of(samples, data, source.features, source.teacher, base))


def _labels(config: LabelsConfig | None) -> LabelsSpec | None:
    if config is None:
        return None
    head = config.head and Path(config.head).name
    return LabelsSpec(name=config.name, head=head, **values_of(config, "path", "head"))
