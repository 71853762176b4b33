"""The autoencoders: bases, and what is fine-tuned from them."""

from pathlib import Path
from typing import Any

from reals.experiment.artefact import Artefact
from reals.experiment.load import Experiment
from reals.experiment.networks import AliasBase, PretrainedBase, TrainedBase
from reals.experiment.resolve.shared import Source, Sources, lpips, made_of, values_of
from reals.experiment.rows import AutoencoderRow
from reals.experiment.specs import (
    AlignSpec,
    AutoencoderSpec,
    DataSpec,
    EquivarianceSpec,
    GanSpec,
    PretrainedAutoencoderSpec,
    TrainedAutoencoderSpec,
    VfSpec,
)


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
            equivariance=None, **values_of(base),
        )  # fmt: skip
        return Artefact(row.name, trained, (data,))
    measured = base.scaling_factor == "measured"  # else the published factor, which needs none of our images
    spec = PretrainedAutoencoderSpec(
        data=data.id if measured else None, **architecture, pretrained=Path(base.path).name, sha256=base.sha256,
        scale_images=scale.latent.scale_images if measured else None, flip=scale.data.flip if measured else None,
        seed=_seed(experiment, row) if measured else None, normalise=scale.latent.normalise if measured else None,
    )  # fmt: skip
    return Artefact(row.name, spec, (data,) if measured else ())


def _fine_tuned(
    experiment: Experiment, row: AutoencoderRow, data: Artefact[DataSpec], sources: Sources, start: Artefact[AutoencoderSpec]
) -> Artefact[AutoencoderSpec]:
    scale, config = experiment.scale, experiment.scale.autoencoder
    assert row.lambda_k is not None  # as the sheet's own check has it
    align: AlignSpec | VfSpec | None = None
    source, equivariance = Source(), None
    if row.patch or row.cls:
        assert row.teacher is not None and row.layers is not None and row.lambda_a is not None  # likewise
        source = sources.of(row.teacher, patches=row.patch)
        cells = scale.latent.cells if row.patch else None
        if row.align == "vf":
            align = VfSpec(lambda_a=row.lambda_a, cells=cells, **values_of(experiment.paper.vf))
        else:
            align = AlignSpec(
                patch=row.patch, cls=row.cls, layers=row.layers, hidden=config.align_hidden, lambda_a=row.lambda_a,
                cells=cells, **values_of(experiment.paper.alignment),
            )  # fmt: skip
    if row.equivariance is not None:
        chances = values_of(experiment.paper.equivariance)
        equivariance = EquivarianceSpec(
            cells=scale.latent.cells, **chances | ({} if row.equivariance == "yes" else {"probability": row.equivariance})
        )
    spec = TrainedAutoencoderSpec(
        data=data.id, **source.ids, **_architecture(experiment), **_training(experiment, row), init=start.id,
        unit_scale=config.unit_scale or None, steps=config.steps, batch=config.batch, lr=config.lr,
        lambda_k=row.lambda_k * scale.lambda_k_factor, align=align, equivariance=equivariance,
    )  # fmt: skip
    return Artefact(row.name, spec, made_of(data, source.features, source.teacher, start))


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
        **values_of(loss, "gan_start", "gan_ramp"),
        "flip": scale.data.flip,
        "gan": GanSpec(**gan),
        "lpips": lpips(experiment, "bf16" if config.precision == "bf16" else None),
        "ema": config.ema,
        "scale_images": scale.latent.scale_images,
        "seed": _seed(experiment, row),
        "precision": config.precision,
        "normalise": scale.latent.normalise,
    }


def _seed(experiment: Experiment, row: AutoencoderRow) -> int:
    return experiment.scale.seeds.autoencoder if row.seed is None else row.seed
