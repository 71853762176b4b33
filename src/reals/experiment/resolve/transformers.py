"""Cached latents, the transformers trained on them, and the samples drawn from those."""

from reals.experiment.artefact import Artefact
from reals.experiment.load import Experiment
from reals.experiment.resolve.shared import PRECISION, Source, Sources, made_of, values_of
from reals.experiment.rows import EvaluationRow, RunRow
from reals.experiment.sampler_table import SAMPLERS, VP_END
from reals.experiment.specs import AutoencoderSpec, DataSpec, LatentsSpec, RepaSpec, RunSpec, SamplesSpec, SdeSpec


def latents(experiment: Experiment, data: Artefact[DataSpec], autoencoder: Artefact[AutoencoderSpec]) -> Artefact[LatentsSpec]:
    spec = LatentsSpec(
        data=data.id, autoencoder=autoencoder.id, precision=PRECISION, compute=experiment.scale.encoding.precision,
        mirrored=None if experiment.scale.data.flip else False,
    )  # fmt: skip
    return Artefact(autoencoder.name, spec, (data, autoencoder))


def run(experiment: Experiment, row: RunRow, latents: Artefact[LatentsSpec], sources: Sources) -> Artefact[RunSpec]:
    scale, loss = experiment.scale, experiment.paper.transformer
    size = scale.models[row.size]
    source, repa = Source(), None
    if row.repa:
        source = sources.of(scale.repa.teacher, patches=True)
        precision = scale.transformer.precision
        half = precision if source.teacher is not None and precision in ("bf16", "fp16") else None
        repa = RepaSpec(
            depth=size.repa_depth, hidden=scale.repa.hidden, coefficient=loss.repa_coefficient, grad_clip=loss.repa_grad_clip,
            teacher_precision=half,
        )  # fmt: skip
    spec = RunSpec(
        latents=latents.id, **source.ids, family=row.family, patch=row.patch, **values_of(size, "repa_depth"),
        latent_channels=scale.latent.channels, latent_size=scale.latent_size, **values_of(scale.transformer),
        label_dropout=loss.label_dropout, learn_sigma=loss.learn_sigma, flip=scale.data.flip,
        seed=scale.seeds.transformer if row.seed is None else row.seed, repa=repa, interpolant=row.path,
        scaling_factor=row.scaling_factor, times=row.times,
    )  # fmt: skip
    return Artefact(row.name, spec, made_of(latents, source.features, source.teacher))


def samples(
    experiment: Experiment, row: EvaluationRow, run: Artefact[RunSpec], autoencoder: Artefact[AutoencoderSpec]
) -> Artefact[SamplesSpec]:
    config, sampler, every = experiment.scale.sampling, row.sampler, row.samples == "all"
    known, sde = SAMPLERS[sampler.name], _sde(experiment, row) if SAMPLERS[sampler.name].sde else None
    short = run.spec.interpolant == "vp" and (sde is None or sde.last_step_size == 0)
    spec = SamplesSpec(
        run=run.id, autoencoder=autoencoder.id, step=experiment.scale.milestones[row.milestone], sampler=sampler.name,
        cfg=row.cfg, steps=(sampler.steps or config.steps) if "steps" in known.settings else None, interval=row.interval,
        interval_time=row.interval_time, cfg_channels=row.cfg_channels, n=config.samples if every else config.gallery,
        labels=config.labels if every else "balanced",
        seed=experiment.scale.seeds.sampling if row.seed is None else row.seed, interpolant=run.spec.interpolant,
        eta=sampler.eta, sde=sde,
        precision=config.precision, end=VP_END if short else None,
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
    return SdeSpec(**values_of(experiment.paper.sampler) | {key: value for key, value in stated.items() if value is not None})
