"""Stage `autoencoder`: train the base from scratch or bring it in, and fine-tune it with Eqs. 1-5."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from reals import files, rng
from reals.data.dataset import Images
from reals.data.latent_scale import LatentScale
from reals.data.readers import CachedFeatures
from reals.experiment.artefact import Artefact
from reals.experiment.networks import PretrainedBase
from reals.experiment.specs import AutoencoderSpec, PretrainedAutoencoderSpec
from reals.machine.usage import work
from reals.measure.latents import latent_statistics
from reals.method import alignment
from reals.method.alignment import AlignNetworks
from reals.method.models import autoencoder as models
from reals.method.models.teacher import OnlineFeatures
from reals.planning import pretrained
from reals.stages.context import Context
from reals.stages.inputs import load_lpips
from reals.training import loop
from reals.training.processes import Processes
from reals.training.tasks.autoencoder import AutoencoderTask, align_networks
from reals.training.tasks.autoencoder_batches import TeacherFeatures

if TYPE_CHECKING:  # diffusers is imported where it is used: it takes seconds
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL


def run(context: Context, artefact: Artefact[AutoencoderSpec]) -> None:
    """Makes the autoencoder's folder: a diffusers AutoencoderKL, the align networks if any, log.jsonl.

    Its config.json holds scaling_factor, 1/std of sampled latents, measured on training images after training, or, where the
    scale normalises channels, latents_mean and latents_std; its index.json their mean and std, also per channel.
    """
    folder, spec = context.begin(artefact), artefact.spec
    if isinstance(spec, PretrainedAutoencoderSpec):
        _bring_in(context, artefact.name, spec, folder)
        return
    registry, config, engine = context.registry, context.scale.autoencoder, context.scale.engine
    if spec.init is None:
        vae = models.build(context.scale.data.resolution, spec.latent_channels, spec.block_out_channels,
                           spec.layers_per_block, spec.norm_num_groups)  # fmt: skip
        models.initialise(vae, spec.seed)
    else:
        start = registry.folder(artefact.needed("autoencoder"))
        files.verified(start)
        vae = models.load(start)
        if spec.unit_scale:
            models.rescale_latents(vae, vae.config["scaling_factor"])
    train = context.images("train", near=True)
    align: AlignNetworks | None = None
    teacher: TeacherFeatures | None = None
    if spec.align is not None:
        if spec.features is not None:
            teacher = CachedFeatures(context.near(registry.folder(artefact.needed("features"))), train)
        else:
            teacher = OnlineFeatures.of(registry.folder(artefact.needed("teacher")), context.device)
        align = align_networks(spec, spec.align, teacher.dim)
        alignment.initialise(align, rng.generator(spec.seed, "align weights"))
    lpips = load_lpips(context)
    with Processes(spec.precision or "fp32", engine.accumulate, engine.compile, engine.deterministic) as processes:
        if (
            teacher is not None and spec.align is not None
        ):  # not before: cuBLAS reads what makes it deterministic once, at its first product
            _check_grid(teacher, train, context.scale.teacher_grid, spec.align.patch, context.device)
        task = AutoencoderTask(spec, vae, align, teacher, lpips, train, context.images("held_out"), processes,
                               config.held_out_images, config.held_out_every)  # fmt: skip
        loop.train(
            task, folder, spec.steps, label=artefact.name, processes=processes, engine=engine, batch=spec.batch,
            sample=task.grid,
        )  # fmt: skip
        if not processes.main:
            return
    task.finish()
    _seal(folder, vae, align, _latent_statistics(context, vae, spec), spec, steps=spec.steps)


def _check_grid(teacher: TeacherFeatures, images: Images, side: int, patch: bool, device: torch.device) -> None:
    """ValueError before any training where the teacher's tokens are not those that latents are aligned with, ``side`` a side."""
    one, plain = np.zeros(1, int), np.zeros(1, bool)
    tokens = teacher(one, plain, torch.from_numpy(images.batch(one)).to(device))[0].shape[1]
    if patch and tokens != side**2:
        raise ValueError(
            f"alignment: the teacher gives {tokens} patch features an image, the latents want {side}x{side} = {side**2}; "
            f"run the teacher at {side} times its patch size (or align cls alone)"
        )


def _latent_statistics(context: Context, vae: "AutoencoderKL", spec: AutoencoderSpec) -> models.LatentStatistics | None:
    """Of the training images; None of a published autoencoder that keeps its own scale."""
    if spec.scale_images is None or spec.seed is None or spec.flip is None:
        return None
    with work():
        return latent_statistics(vae, context.images("train"), spec.scale_images, spec.seed, spec.flip)


def _seal(
    folder: Path, vae: "AutoencoderKL", align: AlignNetworks | None, statistics: models.LatentStatistics | None,
    spec: AutoencoderSpec, steps: int,
) -> None:  # fmt: skip
    facts, scale = {}, None
    if statistics is not None:
        scale = LatentScale(1 / statistics.std)
        if spec.normalise == "channels":
            scale = LatentScale(1.0, tuple(statistics.channel_mean.tolist()), tuple(statistics.channel_std.tolist()))
        facts = {
            "latent_std": statistics.std,
            "latent_scale_images": statistics.images,
            "latent_channel_mean": statistics.channel_mean.tolist(),
            "latent_channel_std": statistics.channel_std.tolist(),
        }
    names = models.save(vae, scale, folder)
    if align is not None:
        names += models.save_align(align, folder)
    files.seal(folder, names, steps=steps, **LatentScale.of_config(vae.config).facts(), **facts)


def _bring_in(context: Context, name: str, spec: PretrainedAutoencoderSpec, folder: Path) -> None:
    """An autoencoder made elsewhere, checked before it is used; align networks that lie beside it come along."""
    base, where = context.scale.bases[name], f"bases.{name}"
    assert isinstance(base, PretrainedBase)  # whose spec this is
    path = str(pretrained.local(context.scale, where) or base.path)
    try:
        if spec.sha256 is not None:
            weights = models.find(path)[1]
            digest = files.sha256(weights)
            if digest != spec.sha256:
                raise ValueError(f"{weights}: its sha256 is {digest}, expected {spec.sha256}")
        vae, align = models.load(path, context.device), models.load_align(Path(path), context.device)
    except ValueError as error:
        raise ValueError(f"{where}.path: {error}") from None
    for what, expected, got in (
        ("latent channels", context.scale.latent.channels, vae.config["latent_channels"]),
        ("times downsampling", context.scale.latent.factor, 2 ** (len(vae.config["block_out_channels"]) - 1)),
    ):
        if expected != got:
            raise ValueError(f"{where}.path: {path}: has {got} {what}, this scale's latents {expected}")
    vae = models.channels_last(vae, context.device)
    _seal(folder, vae, align, _latent_statistics(context, vae, spec), spec, steps=0)
