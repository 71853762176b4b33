"""Floating-point operations of every network of the paper, counted from its sizes alone; nothing is built.

A multiply-add is two operations. Matrix products, convolutions and attention are counted; norms, activations and sums
are not, as torch's flop counter does. Counts are of one forward pass of one image. A training step costs three forward
passes of what is trained (forward, gradients of the weights, gradients of the inputs) and two of a frozen part that
gradients pass through.
"""

import re
from dataclasses import dataclass
from typing import Protocol

TRAINED, PASSED_THROUGH, FROZEN = 3, 2, 1
"""Forward passes' worth of work in a training step: a trained part, a frozen one inside the gradient's way, any other."""

TIME_FREQUENCIES = 256  # of the transformer's time embedding, cosines and sines
MLP_RATIO = 4


class TransformerSizes(Protocol):
    """The fields of `models.transformer.TransformerConfig` that cost anything."""

    @property
    def width(self) -> int: ...

    @property
    def depth(self) -> int: ...

    @property
    def patch(self) -> int: ...

    @property
    def latent_channels(self) -> int: ...

    @property
    def latent_size(self) -> int: ...

    @property
    def learn_sigma(self) -> bool: ...

    @property
    def projector_dims(self) -> tuple[int, ...]: ...

    @property
    def projector_hidden(self) -> int: ...


def linear(inputs: int, outputs: int, rows: int = 1) -> int:
    """A dense layer applied to ``rows`` vectors."""
    return 2 * rows * inputs * outputs


def convolution(inputs: int, outputs: int, kernel: int, side: int) -> int:
    """A square convolution whose *output* is ``side`` x ``side``."""
    return 2 * inputs * outputs * kernel**2 * side**2


def attention(tokens: int, width: int) -> int:
    """Scores and weighted sums of self-attention, without its projections; heads do not matter."""
    return 2 * 2 * tokens**2 * width


def encoder_block(tokens: int, width: int, hidden: int | None = None) -> int:
    """A plain ViT block: attention with its four projections, and an MLP (ratio 4 unless ``hidden`` is given)."""
    hidden = MLP_RATIO * width if hidden is None else hidden
    return linear(width, 4 * width, tokens) + attention(tokens, width) + 2 * linear(width, hidden, tokens)


def transformer_flops(config: TransformerSizes) -> int:
    """One forward pass of a DiT, SiT or REPA transformer (`models.transformer.Transformer`) on one sample.

    With a projector (REPA) it is part of the pass, as in training; sampling does without: `without_projector`.
    Half of it is the "Gflops" of the DiT and SiT papers, which count multiply-adds.
    """
    tokens = _tokens(config)
    return without_projector(config) + sum(linear(inputs, outputs, tokens) for inputs, outputs in _projectors(config))


def without_projector(config: TransformerSizes) -> int:
    """`transformer_flops` of the backbone alone, which is what a sampler runs."""
    width, tokens = config.width, _tokens(config)
    out_channels = config.latent_channels * (2 if config.learn_sigma else 1)
    return (
        linear(config.patch**2 * config.latent_channels, width, tokens)
        + linear(TIME_FREQUENCIES, width)
        + linear(width, width)
        + config.depth * (encoder_block(tokens, width) + linear(width, 6 * width))
        + linear(width, 2 * width)
        + linear(width, config.patch**2 * out_channels, tokens)
    )


def transformer_parameters(config: TransformerSizes, classes: int) -> int:
    """Parameters of the backbone and the projector, the fixed positions and the null class's row among them."""
    width, cell = config.width, config.patch**2 * config.latent_channels
    dense = [(cell, width), (TIME_FREQUENCIES, width), (width, width), (width, 2 * width)]
    dense.append((width, cell * (2 if config.learn_sigma else 1)))
    dense += [
        (width, 3 * width),
        (width, width),
        (width, MLP_RATIO * width),
        (MLP_RATIO * width, width),
        (width, 6 * width),
    ] * config.depth
    dense += _projectors(config)
    return sum((inputs + 1) * outputs for inputs, outputs in dense) + (classes + 1 + _tokens(config)) * width


def _projectors(config: TransformerSizes) -> list[tuple[int, int]]:
    """(inputs, outputs) of the dense layers of all projectors."""
    width, hidden = config.width, config.projector_hidden
    return [layer for dim in config.projector_dims for layer in ((width, hidden), (hidden, hidden), (hidden, dim))]


def _tokens(config: TransformerSizes) -> int:
    return (config.latent_size // config.patch) ** 2


@dataclass(frozen=True)
class VaeSizes:
    """Sizes of a diffusers AutoencoderKL with mid-block attention; ``resolution`` in pixels."""

    resolution: int
    latent_channels: int
    block_out_channels: tuple[int, ...]
    layers_per_block: int

    @property
    def latent_size(self) -> int:
        return self.resolution // 2 ** (len(self.block_out_channels) - 1)


Layer = tuple[int, int, int, int]  # a convolution: channels in, channels out, kernel, side of the output


def _residual(before: int, after: int, side: int) -> list[Layer]:
    shortcut = [] if before == after else [(before, after, 1, side)]
    return [(before, after, 3, side), (after, after, 3, side), *shortcut]


def _middle(width: int, side: int) -> list[Layer]:
    return [*_residual(width, width, side), *[(width, width, 1, side)] * 4, *_residual(width, width, side)]


def _encoder(vae: VaeSizes) -> list[Layer]:
    widths, side, moments = vae.block_out_channels, vae.resolution, 2 * vae.latent_channels
    layers, before = [(3, widths[0], 3, side)], widths[0]
    for level, width in enumerate(widths):
        layers += _residual(before, width, side) + (vae.layers_per_block - 1) * _residual(width, width, side)
        if level < len(widths) - 1:
            side //= 2
            layers.append((width, width, 3, side))
        before = width
    return [*layers, *_middle(before, side), (before, moments, 3, side), (moments, moments, 1, side)]


def _decoder(vae: VaeSizes) -> list[Layer]:
    widths, side, latent = vae.block_out_channels[::-1], vae.latent_size, vae.latent_channels
    layers, before = [(latent, latent, 1, side), (latent, widths[0], 3, side), *_middle(widths[0], side)], widths[0]
    for level, width in enumerate(widths):
        layers += _residual(before, width, side) + vae.layers_per_block * _residual(width, width, side)
        if level < len(widths) - 1:
            side *= 2
            layers.append((width, width, 3, side))
        before = width
    return [*layers, (before, 3, 3, side)]


def vae_encoder_flops(vae: VaeSizes) -> int:
    """Image to posterior moments: the encoder and quant_conv."""
    return sum(convolution(*layer) for layer in _encoder(vae)) + attention(vae.latent_size**2, vae.block_out_channels[-1])


def vae_decoder_flops(vae: VaeSizes) -> int:
    """Latent to image: post_quant_conv and the decoder, whose blocks have one residual layer more than the encoder's."""
    return sum(convolution(*layer) for layer in _decoder(vae)) + attention(vae.latent_size**2, vae.block_out_channels[-1])


def vae_parameters(vae: VaeSizes) -> int:
    """Weights and biases of encoder and decoder, without the norms (0.04% of SD-VAE)."""
    return sum((before * kernel**2 + 1) * after for before, after, kernel, _ in _encoder(vae) + _decoder(vae))


@dataclass(frozen=True)
class VitSizes:
    """A plain ViT; ``prefix`` counts the tokens before the patches (cls and registers), ``hidden`` is the MLP's width."""

    width: int
    depth: int
    patch: int
    prefix: int = 1
    hidden: int | None = None


VITS = {"tiny": (192, 12), "small": (384, 12), "medium": (512, 12), "base": (768, 12), "large": (1024, 24), "huge": (1280, 32)}
"""Width and depth of the sizes in timm's names (Dosovitskiy et al. 2021, Touvron et al. 2021)."""

VIT_NAME = re.compile(r"(?:vit|deit3?)_(tiny|small|medium|base|large|huge)_patch(\d+)(?:_reg(\d+))?(?:_|\.|$)")


def vit_sizes(name: str) -> VitSizes:
    """The sizes of a timm ViT, read from its name. ValueError where the name does not tell them."""
    found = VIT_NAME.match(name)
    if found is None:
        raise ValueError(f"'{name}': the sizes of this network are not known from its name; expected vit_<size>_patch<n>...")
    size, patch, registers = found.groups()
    width, depth = VITS[size]
    return VitSizes(width, depth, int(patch), 1 + int(registers or 0))


def vit_flops(vit: VitSizes, grid: int, classes: int = 0) -> int:
    """A ViT at ``grid`` x ``grid`` patches; ``classes`` of its head, where it is used as a classifier."""
    tokens = grid**2 + vit.prefix
    embed = convolution(3, vit.width, vit.patch, grid)
    return embed + vit.depth * encoder_block(tokens, vit.width, vit.hidden) + linear(vit.width, classes)


def mlp_flops(inputs: int, hidden: int, outputs: int, layers: int, rows: int) -> int:
    """An align network (`alignment.mlp`) on ``rows`` vectors."""
    sizes = [inputs, *[hidden] * (layers - 1), outputs]
    return sum(linear(a, b, rows) for a, b in zip(sizes[:-1], sizes[1:], strict=True))


def patch_gan_flops(resolution: int, channels: int, layers: int) -> int:
    """The PatchGAN of `models.discriminator.patch_gan`."""
    widths = [3, *(channels * min(2**i, 8) for i in range(layers + 1)), 1]
    total, side = 0, resolution
    for i, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        side = side // 2 if i < layers else side - 1
        total += convolution(before, after, 4, side)
    return total


VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
ALEXNET = ((64, 11), (192, 5), (384, 3), (256, 3), (256, 3))  # channels, kernel


def lpips_flops(net: str, resolution: int) -> int:
    """One image of an LPIPS pair through the backbone, with half of the 1x1 layers on the difference."""
    total, before, side, maps = 0, 3, resolution, []
    if net == "vgg":
        for stage, widths in enumerate(VGG16):
            side = side // 2 if stage else side
            for width in widths:
                total, before = total + convolution(before, width, 3, side), width
            maps.append((before, side))
    elif net == "alex":
        for layer, (width, kernel) in enumerate(ALEXNET):
            if layer == 0:
                side = (side + 2 * 2 - kernel) // 4 + 1
            elif layer in (1, 2):
                side = (side - 3) // 2 + 1  # max pooling, 3x3 with stride 2
            total, before = total + convolution(before, width, kernel, side), width
            maps.append((before, side))
    else:
        return _squeezenet(resolution)
    return total + sum(convolution(width, 1, 1, side) for width, side in maps) // 2


def _squeezenet(resolution: int) -> int:
    """SqueezeNet 1.1 up to its last fire module; max pools round up."""
    side = (resolution - 3) // 2 + 1
    total, before, maps = convolution(3, 64, 3, side), 64, [(64, side)]
    fires = [(16, 64, True), (16, 64, False), (32, 128, True), (32, 128, False),
             (48, 192, True), (48, 192, False), (64, 256, False), (64, 256, False)]  # fmt: skip
    for i, (squeeze, expand, pooled) in enumerate(fires):
        if pooled:
            side = -((3 - side) // 2) + 1
        total += convolution(before, squeeze, 1, side) + convolution(squeeze, expand, 1, side)
        total, before = total + convolution(squeeze, expand, 3, side), 2 * expand
        if i in (1, 3, 4, 5, 6, 7):
            maps.append((before, side))
    return total + sum(convolution(width, 1, 1, side) for width, side in maps) // 2


def small_cnn_flops(resolution: int, width: int, classes: int, blocks: int = 1) -> int:
    """The feature extractor of small images (`small_cnn.SmallCNN`)."""
    stride = max(1, resolution // 32)
    kernel = max(3, 2 * stride - 1)
    side = (resolution + 2 * (kernel // 2) - kernel) // stride + 1
    total, before = convolution(3, width, kernel, side), width
    for after, step in ((width, 1), (2 * width, 2), (4 * width, 2), (4 * width, 2)):
        side = (side - 1) // step + 1
        shortcut = 0 if before == after and step == 1 else convolution(before, after, 1, side)
        total += convolution(before, after, 3, side) + convolution(after, after, 3, side) + shortcut
        total += (blocks - 1) * 2 * convolution(after, after, 3, side)
        before = after
    return total + linear(before, classes)


INCEPTION_FLOPS = 11_426_464_960
"""ADM's Inception-v3 at its own 299 pixels (torch-fidelity's inception-v3-compat), whatever the image's size."""
