"""The sizes of an experiment's networks, and the FLOPs of one image through each."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from reals.experiment.artefact import Artefact
from reals.experiment.networks import SIDES, VIT_MODELS, Teacher
from reals.experiment.reading import ConfigError
from reals.experiment.registry import Registry
from reals.experiment.scale import LPIPS_SMALLEST, Scale
from reals.experiment.specs import ExtractorSpec, RunSpec, TeacherSpec, TrainedAutoencoderSpec, VfSpec
from reals.planning import flops
from reals.planning.counts import Counts


@dataclass(frozen=True)
class Transformer:
    """Sizes of a run's network, as `flops.TransformerSizes` wants them."""

    width: int
    depth: int
    patch: int
    latent_channels: int
    latent_size: int
    learn_sigma: bool
    projector_dims: tuple[int, ...]
    projector_hidden: int


class Networks:
    """The networks of one experiment, known by their artefacts; nothing is built but a ViT whose name says no sizes."""

    def __init__(self, registry: Registry, counts: Counts):
        self.registry, self.counts = registry, counts

    @property
    def scale(self) -> Scale:
        return self.registry.experiment.scale

    @cached_property
    def vae(self) -> flops.VaeSizes:
        a = self.scale.autoencoder
        return flops.VaeSizes(self.scale.data.resolution, self.scale.latent.channels, a.block_out_channels, a.layers_per_block)

    def _config(self, teacher: Artefact[TeacherSpec]) -> Teacher:
        known = self.registry.teachers
        return next(config for key, config in self.scale.teachers.items() if known[key].id == teacher.id)

    def teacher_flops(self, teacher: Artefact[TeacherSpec], grid: int) -> int:
        """One image through a teacher at a grid."""
        config = self._config(teacher)
        if config.kind == "timm":
            return flops.vit_flops(vit_of(config.model), grid)
        return flops.vit_flops(flops.VitSizes(config.width, config.depth, config.patch), grid)

    def teacher_dim(self, teacher: Artefact[TeacherSpec]) -> int:
        """Width of a teacher's features."""
        return teacher_width(self._config(teacher))

    def transformer(self, run: Artefact[RunSpec]) -> Transformer:
        """The sizes of a run's network."""
        spec, repa, teacher = run.spec, run.spec.repa, run.teacher
        return Transformer(
            width=spec.width, depth=spec.depth, patch=spec.patch, latent_channels=spec.latent_channels,
            latent_size=spec.latent_size, learn_sigma=spec.learn_sigma,
            projector_dims=() if teacher is None else (self.teacher_dim(teacher),), projector_hidden=repa.hidden if repa else 0,
        )  # fmt: skip

    def extractor_flops(self, extractor: Artefact[ExtractorSpec] | None = None) -> int:
        """One image through the scale's feature extractor, or through the one that ``extractor`` is."""
        evaluation = self.scale.evaluation
        judge = next((m for m, known in self.registry.judges.items() if known is extractor), None)
        x = evaluation.extractor if judge is None else evaluation.judges[judge]
        if x.kind == "inception":
            return flops.INCEPTION_FLOPS
        if x.kind != "small-cnn":
            vit = vit_of(VIT_MODELS[x.kind])
            return flops.vit_flops(vit, SIDES[x.kind] // vit.patch)
        return flops.small_cnn_flops(self.scale.data.resolution, x.width, self.counts.classes, x.blocks or 1)

    def autoencoder_step_flops(self, spec: TrainedAutoencoderSpec, teacher: Artefact[TeacherSpec] | None) -> int:
        """One image through a training step of Eq. 5: both networks, the teacher, LPIPS and the discriminator."""
        total = sum(part * self._through(spec, *sides) for part, sides in self._sides(spec))
        align = spec.align
        if align is not None and teacher is not None:
            if spec.teacher is not None:  # itself, and not its cache
                total += flops.FROZEN * self.teacher_flops(teacher, self.scale.teacher_grid)
            tokens, dim, channels = self.scale.teacher_grid**2, self.teacher_dim(teacher), self.scale.latent.channels
            for width, rows in ((channels * (align.cells or 1) ** 2, tokens * align.patch), (channels, align.cls)):
                total += flops.TRAINED * flops.mlp_flops(width, align.hidden, dim, align.layers, rows)
            if isinstance(align, VfSpec):  # the two matrices of cosines; the weight takes one more backward pass
                total += (flops.FROZEN + flops.TRAINED + 2) * flops.linear(dim, tokens, tokens)
        return round(total)

    def _sides(self, spec: TrainedAutoencoderSpec) -> list[tuple[float, tuple[int, int]]]:
        """(share of the steps, sides in pixels of the images that are encoded and decoded): not one where EQ-VAE scales them."""
        whole, side, eq = self.scale.data.resolution, self.scale.latent_size, spec.equivariance
        if eq is None:
            return [(1.0, (whole, whole))]
        sizes = [whole * cells // side for cells in eq.sides(side)]
        of_latents, of_images = eq.probability / len(sizes), (1 - eq.probability) * eq.low_resolution / len(sizes)
        scaled = [(share, sides) for size in sizes for share, sides in ((of_latents, (whole, size)), (of_images, (size, size)))]
        return [((1 - eq.probability) * (1 - eq.low_resolution), (whole, whole)), *scaled]

    def _through(self, spec: TrainedAutoencoderSpec, encoded: int, decoded: int) -> int:
        """One image through a step without its alignment: encoded at one size, decoded and judged at another."""
        decoder = flops.vae_decoder_flops(replace(self.vae, resolution=decoded))
        total = flops.TRAINED * (flops.vae_encoder_flops(replace(self.vae, resolution=encoded)) + decoder)
        lpips = flops.lpips_flops(spec.lpips.net, max(decoded, LPIPS_SMALLEST[spec.lpips.net])) if spec.lambda_p > 0 else 0
        total += (flops.FROZEN + flops.PASSED_THROUGH) * lpips  # the image itself forward, its reconstruction forward and back
        if isinstance(spec.align, VfSpec):  # its adaptive weight: back through LPIPS and the decoder once more
            total += flops.FROZEN * (decoder + lpips)
        if spec.lambda_g > 0:  # through it in the generator's step; trained on real and on fake in its own
            judged = max(decoded, spec.gan.smallest)
            discriminator = flops.patch_gan_flops(judged, spec.gan.channels, spec.gan.layers)
            total += (flops.PASSED_THROUGH + 2 * flops.TRAINED) * discriminator
        return total


def vit_of(model: str) -> flops.VitSizes:
    """The sizes of a timm ViT: from its name, else from the network built without memory. ConfigError where it is no ViT."""
    try:
        return flops.vit_sizes(model)
    except ValueError:
        import timm
        import torch

    try:
        with torch.device("meta"):
            network: Any = timm.create_model(model, num_classes=0)  # of one of timm's many classes of ViT
        dense = sum(m.weight.numel() for m in network.blocks[0].mlp.modules() if isinstance(m, torch.nn.Linear))
        hidden = dense // (2 * network.embed_dim)  # as if it had two layers; gated ones have three
        patch = network.patch_embed.patch_size[0]
        return flops.VitSizes(network.embed_dim, len(network.blocks), patch, network.num_prefix_tokens, hidden)
    except (RuntimeError, AttributeError, IndexError) as error:
        raise ConfigError(f"teachers: model {model} is no ViT that timm knows ({error})") from None


def teacher_width(teacher: Teacher) -> int:
    """Width of a teacher's features."""
    return vit_of(teacher.model).width if teacher.kind == "timm" else teacher.width
