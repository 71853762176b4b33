"""From sheets and scale to artefacts: a function for each kind, which says what it is made from and what decides its result."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reals.experiment.artefact import Artefact
from reals.experiment.datasets import LabelsConfig
from reals.experiment.load import Experiment
from reals.experiment.networks import AliasBase, InceptionExtractor, PretrainedBase, TrainedBase, TrainedExtractor, TrainedTeacher
from reals.experiment.reading import ConfigError, Strict
from reals.experiment.rows import AutoencoderRow, EvaluationRow, RunRow
from reals.experiment.sampler_table import SAMPLERS
from reals.experiment.specs import (
    AlignSpec,
    AnalysisSpec,
    AugmentationsSpec,
    AutoencoderSpec,
    DataSpec,
    DownstreamSpec,
    EvaluationSpec,
    ExtractorSpec,
    FeaturesSpec,
    GanSpec,
    InceptionSpec,
    LabelsSpec,
    LatentsSpec,
    LpipsSpec,
    PretrainedAutoencoderSpec,
    PretrainedTeacherSpec,
    ReferenceSpec,
    RepaSpec,
    RunSpec,
    SamplesSpec,
    SdeSpec,
    TeacherSpec,
    TrainedAutoencoderSpec,
    TrainedExtractorSpec,
    TrainedTeacherSpec,
)

PRECISION = "float16"  # of cached features and latents


@dataclass(frozen=True)
class Sources:
    """Where the features of each teacher come from: its cache, or the teacher itself where there is none of what is asked for."""

    features: str  # as the scale says: cached, cls or online
    teachers: Mapping[str, Artefact[TeacherSpec]]
    caches: Mapping[str, Artefact[FeaturesSpec]]

    def of(self, teacher: str, *, patches: bool) -> "Source":
        cached = {"cached": True, "cls": not patches, "online": False}[self.features]
        return Source(features=self.caches[teacher]) if cached else Source(teacher=self.teachers[teacher])


@dataclass(frozen=True)
class Source:
    """Where features come from: one of the two, or neither where none are used."""

    features: Artefact[FeaturesSpec] | None = None
    teacher: Artefact[TeacherSpec] | None = None

    @property
    def ids(self) -> dict[str, str | None]:
        return {"features": self.features and self.features.id, "teacher": self.teacher and self.teacher.id}


def _made(*artefacts: Artefact[Any] | None) -> tuple[Artefact[Any], ...]:
    return tuple(artefact for artefact in artefacts if artefact is not None)


def _values(config: Strict, *without: str) -> dict[str, Any]:
    """What a part of the scale states: a value that no spec has a field for is an error there, and never left out of an id."""
    return config.model_dump(exclude={"name", "kind", *without})


def data(experiment: Experiment) -> Artefact[DataSpec]:
    config, seeds = experiment.scale.data, experiment.scale.seeds
    spec = DataSpec(
        source=config.source, resolution=config.resolution, storage=config.storage, held_out=config.held_out,
        images_per_class=config.images_per_class, unreadable=config.unreadable, exif_rotate=config.exif_rotate,
        version=config.version, seed=seeds.data,
    )  # fmt: skip
    return Artefact(config.name, spec)


def teachers(experiment: Experiment, data: Artefact[DataSpec]) -> dict[str, Artefact[TeacherSpec]]:
    scale, found = experiment.scale, {}
    for key, teacher in scale.teachers.items():
        if isinstance(teacher, TrainedTeacher):
            trained = TrainedTeacherSpec(data=data.id, grid=scale.latent_size, flip=scale.data.flip, **_values(teacher))
            found[key] = Artefact(teacher.name, trained, (data,))
        else:
            found[key] = Artefact(teacher.name, PretrainedTeacherSpec(grid=scale.latent_size, **_values(teacher, "weights")))
    return found


def features(
    experiment: Experiment, data: Artefact[DataSpec], teachers: Mapping[str, Artefact[TeacherSpec]]
) -> dict[str, Artefact[FeaturesSpec]]:
    """The caches of the teachers' features; none where features are computed as they are used."""
    scale = experiment.scale
    if scale.features == "online":
        return {}
    targets = "cls" if scale.features == "cls" else None
    return {
        key: Artefact(
            f"{teacher.name}_{data.name}",
            FeaturesSpec(data=data.id, teacher=teacher.id, precision=PRECISION, flip=scale.data.flip, targets=targets),
            (data, teacher),
        )
        for key, teacher in teachers.items()
    }


def extractor(
    experiment: Experiment, data: Artefact[DataSpec], config: TrainedExtractor | InceptionExtractor
) -> Artefact[ExtractorSpec]:
    if isinstance(config, InceptionExtractor):
        return Artefact(config.name, InceptionSpec(sha256=config.sha256))
    spec = TrainedExtractorSpec(data=data.id, flip=experiment.scale.data.flip, **_values(config))
    return Artefact(config.name, spec, (data,))


def autoencoders(experiment: Experiment, data: Artefact[DataSpec], sources: Sources) -> dict[str, Artefact[AutoencoderSpec]]:
    """Row -> autoencoder; two rows may stand for one, made once."""
    found: dict[str, Artefact[AutoencoderSpec]] = {}

    def add(name: str) -> Artefact[AutoencoderSpec]:
        if name not in found:
            row = experiment.autoencoders[name]
            if row.init != "base":
                found[name] = _fine_tuned(experiment, row, data, sources, add(row.init))
            else:
                base = experiment.scale.bases[row.repeat_of or name]
                found[name] = add(base.of) if isinstance(base, AliasBase) else _base(experiment, row, base, data)
        return found[name]

    for name in experiment.autoencoders:
        add(name)
    return found


def _base(
    experiment: Experiment, row: AutoencoderRow, base: TrainedBase | PretrainedBase, data: Artefact[DataSpec]
) -> Artefact[AutoencoderSpec]:
    """An autoencoder that others start from."""
    scale, architecture = experiment.scale, _architecture(experiment)
    if isinstance(base, TrainedBase):
        trained = TrainedAutoencoderSpec(
            data=data.id, **Source().ids, **architecture, **_training(experiment, row), init=None, unit_scale=None, align=None,
            **_values(base),
        )  # fmt: skip
        return Artefact(row.name, trained, (data,))
    measured = base.scaling_factor == "measured"  # else the published factor, which needs none of our images
    spec = PretrainedAutoencoderSpec(
        data=data.id if measured else None, **architecture, pretrained=Path(base.path).name, sha256=base.sha256,
        scale_images=scale.latent.scale_images if measured else None, flip=scale.data.flip if measured else None,
        seed=_seed(experiment, row) if measured else None,
    )  # fmt: skip
    return Artefact(row.name, spec, (data,) if measured else ())


def _fine_tuned(
    experiment: Experiment, row: AutoencoderRow, data: Artefact[DataSpec], sources: Sources, start: Artefact[AutoencoderSpec]
) -> Artefact[AutoencoderSpec]:
    scale, config = experiment.scale, experiment.scale.autoencoder
    assert row.lambda_k is not None  # as the sheet's own check has it
    align, source = None, Source()
    if row.patch or row.cls:
        assert row.teacher is not None and row.layers is not None and row.lambda_a is not None  # likewise
        source = sources.of(row.teacher, patches=row.patch)
        align = AlignSpec(
            patch=row.patch, cls=row.cls, layers=row.layers, hidden=config.align_hidden, lambda_a=row.lambda_a,
            **_values(experiment.paper.alignment),
        )  # fmt: skip
    spec = TrainedAutoencoderSpec(
        data=data.id, **source.ids, **_architecture(experiment), **_training(experiment, row), init=start.id,
        unit_scale=config.unit_scale or None, steps=config.steps, batch=config.batch, lr=config.lr,
        lambda_k=row.lambda_k * scale.lambda_k_factor, align=align,
    )  # fmt: skip
    return Artefact(row.name, spec, _made(data, source.features, source.teacher, start))


def _architecture(experiment: Experiment) -> dict[str, Any]:
    config = experiment.scale.autoencoder
    return {
        "latent_channels": experiment.scale.latent.channels,
        "block_out_channels": config.block_out_channels,
        "layers_per_block": config.layers_per_block,
        "norm_num_groups": config.norm_num_groups,
    }


def _training(experiment: Experiment, row: AutoencoderRow) -> dict[str, Any]:
    """What the trainings of all autoencoders of a scale share."""
    scale, config = experiment.scale, experiment.scale.autoencoder
    loss = experiment.paper.autoencoder[config.preset]
    gan = {"start": loss.gan_start, "ramp": loss.gan_ramp} | config.gan.model_dump(exclude_none=True)
    return {
        **_values(loss, "gan_start", "gan_ramp"),
        "flip": scale.data.flip,
        "gan": GanSpec(**gan),
        "lpips": _lpips(experiment),
        "ema": config.ema,
        "scale_images": scale.latent.scale_images,
        "seed": _seed(experiment, row),
        "precision": config.precision,
    }


def _lpips(experiment: Experiment) -> LpipsSpec:
    return LpipsSpec(**_values(experiment.scale.autoencoder.lpips, "weights"))


def _seed(experiment: Experiment, row: AutoencoderRow) -> int:
    return experiment.scale.seeds.autoencoder if row.seed is None else row.seed


def latents(data: Artefact[DataSpec], autoencoder: Artefact[AutoencoderSpec]) -> Artefact[LatentsSpec]:
    spec = LatentsSpec(data=data.id, autoencoder=autoencoder.id, precision=PRECISION)
    return Artefact(autoencoder.name, spec, (data, autoencoder))


def run(experiment: Experiment, row: RunRow, latents: Artefact[LatentsSpec], sources: Sources) -> Artefact[RunSpec]:
    scale, loss = experiment.scale, experiment.paper.transformer
    size = scale.models[row.size]
    source, repa = Source(), None
    if row.repa:
        source = sources.of(scale.repa.teacher, patches=True)
        repa = RepaSpec(
            depth=size.repa_depth, hidden=scale.repa.hidden, coefficient=loss.repa_coefficient, grad_clip=loss.repa_grad_clip
        )
    spec = RunSpec(
        latents=latents.id, **source.ids, family=row.family, patch=row.patch, **_values(size, "repa_depth"),
        latent_channels=scale.latent.channels, latent_size=scale.latent_size, **_values(scale.transformer),
        label_dropout=loss.label_dropout, learn_sigma=loss.learn_sigma, flip=scale.data.flip,
        seed=scale.seeds.transformer if row.seed is None else row.seed, repa=repa, interpolant=row.path,
        scaling_factor=row.scaling_factor,
    )  # fmt: skip
    return Artefact(row.name, spec, _made(latents, source.features, source.teacher))


def samples(
    experiment: Experiment, row: EvaluationRow, run: Artefact[RunSpec], autoencoder: Artefact[AutoencoderSpec]
) -> Artefact[SamplesSpec]:
    config, sampler, every = experiment.scale.sampling, row.sampler, row.samples == "all"
    known = SAMPLERS[sampler.name]
    spec = SamplesSpec(
        run=run.id, autoencoder=autoencoder.id, step=experiment.scale.milestones[row.milestone], sampler=sampler.name,
        cfg=row.cfg, steps=(sampler.steps or config.steps) if "steps" in known.settings else None, interval=row.interval,
        interval_time=row.interval_time, cfg_channels=row.cfg_channels, n=config.samples if every else config.gallery,
        labels=config.labels if every else "balanced",
        seed=experiment.scale.seeds.sampling if row.seed is None else row.seed, interpolant=run.spec.interpolant,
        eta=sampler.eta, sde=_sde(experiment, row) if known.sde else None,
    )  # fmt: skip
    return Artefact(row.name, spec, (run, autoencoder))


def _sde(experiment: Experiment, row: EvaluationRow) -> SdeSpec:
    """The paper's settings, with what the row says otherwise."""
    sampler = row.sampler
    stated = {
        "diffusion_form": sampler.form,
        "diffusion_norm": sampler.norm,
        "last_step": sampler.last,
        "last_step_size": 0.0 if sampler.last == "none" else sampler.last_size,
    }
    return SdeSpec(**_values(experiment.paper.sampler) | {key: value for key, value in stated.items() if value is not None})


def reference(experiment: Experiment, data: Artefact[DataSpec], extractor: Artefact[ExtractorSpec]) -> Artefact[ReferenceSpec]:
    config = experiment.scale.evaluation
    spec = ReferenceSpec(
        data=data.id, extractor=extractor.id, source=config.reference and Path(config.reference).name,
        pr_reference=config.pr_reference,
    )  # fmt: skip
    return Artefact(data.name, spec, (data, extractor))


def second_reference(
    experiment: Experiment, data: Artefact[DataSpec], extractor: Artefact[ExtractorSpec]
) -> Artefact[ReferenceSpec]:
    """By the second feature extractor: always of the training images, since published statistics are of the first."""
    spec = ReferenceSpec(data=data.id, extractor=extractor.id, source=None, pr_reference=experiment.scale.evaluation.pr_reference)
    return Artefact(f"{data.name}_{extractor.name}", spec, (data, extractor))


def evaluation(
    experiment: Experiment, samples: Artefact[SamplesSpec], reference: Artefact[ReferenceSpec],
    second: Artefact[ReferenceSpec] | None,
) -> Artefact[EvaluationSpec]:  # fmt: skip
    paper = experiment.paper
    spec = EvaluationSpec(
        samples=samples.id, reference=reference.id, pr_k=paper.pr_k, is_split=paper.is_split,
        seed=experiment.scale.seeds.analysis, second=second and second.id,
    )  # fmt: skip
    return Artefact(samples.name, spec, _made(samples, reference, second))


def analysis(
    experiment: Experiment, data: Artefact[DataSpec], autoencoder: Artefact[AutoencoderSpec], extractor: Artefact[ExtractorSpec]
) -> Artefact[AnalysisSpec]:
    scale, paper = experiment.scale, experiment.paper
    spec = AnalysisSpec(
        data=data.id, autoencoder=autoencoder.id, extractor=extractor.id, **_values(scale.analysis),
        augmentations=AugmentationsSpec(**_values(paper.augmentations)), knn_k=paper.knn_k, seed=scale.seeds.analysis,
        lpips=_lpips(experiment),
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
        samples=samples.id, data=data.id, **source.ids, autoencoder=base and base.id, target=config.target, steps=config.steps,
        batch=config.batch, lr=config.lr, segmentation=_labels(config.segmentation), depth=_labels(config.depth),
        held_out_images=scale.analysis.images, gallery=scale.sampling.gallery, seed=scale.seeds.analysis,
    )  # fmt: skip
    return Artefact(samples.name, spec, _made(samples, data, source.features, source.teacher, base))


def _labels(config: LabelsConfig | None) -> LabelsSpec | None:
    if config is None:
        return None
    head = config.head and Path(config.head).name
    return LabelsSpec(name=config.name, head=head, **_values(config, "path", "head"))
