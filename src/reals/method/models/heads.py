"""Light heads on a map of teacher features: classes (DINOv2's linear head) and depth, and published head files."""

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reals import tensors
from reals.method.models import moge

DEPTH_WIDTH = 128  # our choice
SMALLEST_DEPTH = 1e-3


class SegmentationHead(nn.Module):
    """BatchNorm and a 1x1 convolution: DINOv2's linear head (mmseg's BNHead).

    features [B, D, h, w] -> logits [B, classes, H, W], bilinear between token centres.
    """

    def __init__(self, dim: int, classes: int):
        super().__init__()
        self.bn = nn.BatchNorm2d(dim)
        self.conv_seg = nn.Conv2d(dim, classes, 1)

    def forward(self, features: Tensor, size: int) -> Tensor:
        return _to_pixels(self.conv_seg(self.bn(features)), size)


class DepthHead(nn.Module):
    """BatchNorm, a 3x3 and a 1x1 convolution, positive by softplus: features [B, D, h, w] -> depth [B, H, W]."""

    def __init__(self, dim: int):
        super().__init__()
        self.bn = nn.BatchNorm2d(dim)
        self.conv = nn.Conv2d(dim, DEPTH_WIDTH, 3, padding=1)
        self.out = nn.Conv2d(DEPTH_WIDTH, 1, 1)

    def forward(self, features: Tensor, size: int) -> Tensor:
        logits = self.out(F.gelu(self.conv(self.bn(features))))
        return F.softplus(_to_pixels(logits, size)[:, 0]) + SMALLEST_DEPTH


class InkHeads(nn.Module):
    """Mask and depth of bright strokes: BatchNorm and one 1x1 convolution for both (DINOv2's linear head), at pixel resolution.

    tokens [B, h*w, D] -> mask logits and depth, each [B, h*r, w*r].
    """

    def __init__(self, dim: int, pixels_per_token: int):
        super().__init__()
        self.r = pixels_per_token
        self.norm = nn.BatchNorm1d(dim)
        self.out = nn.Linear(dim, 2 * pixels_per_token**2)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        side = round(tokens.shape[1] ** 0.5)
        maps = self.out(self.norm(tokens.transpose(1, 2)).transpose(1, 2))
        maps = F.pixel_shuffle(maps.transpose(1, 2).unflatten(2, (side, side)), self.r)
        return maps[:, 0], F.softplus(maps[:, 1])


def _to_pixels(maps: Tensor, size: int) -> Tensor:
    return F.interpolate(maps, size=(size, size), mode="bilinear", align_corners=False)


@torch.no_grad()
def initialise(head: nn.Module, generator: torch.Generator) -> None:
    """Convolutions N(0, 1 / fan_in), biases zero, drawn from ``generator``."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            module.weight.normal_(0, fan_in**-0.5, generator=generator)
            if module.bias is not None:
                module.bias.zero_()


def as_map(tokens: Tensor) -> Tensor:
    """tokens [B, h*w, D] in row order -> [B, D, h, w]."""
    side = round(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).unflatten(2, (side, side))


class KnownDepths(NamedTuple):
    """The pixels of a batch whose depth is known: where they are among all of its pixels, their depths, how many an image has."""

    places: Tensor
    depths: Tensor
    counts: list[int]


def known_depths(truth: Tensor) -> KnownDepths:
    """Those of ``truth`` [B, H, W] that are above 0. Asked on the CPU, since how many there are is a number to wait for."""
    known = truth > 0
    return KnownDepths(known.flatten().nonzero()[:, 0], truth[known], known.flatten(1).sum(1).tolist())


def depth_loss(predicted: Tensor, truth: KnownDepths, relative: bool) -> Tensor:
    """L1 of ``predicted`` [B, H, W] over the pixels of known depth, image by image: of logarithms, or (``relative``) of maps
    brought to median 0 and mean absolute deviation 1 (MiDaS's scale- and shift-invariant loss, Ranftl et al. 2020)."""
    losses = []
    found = predicted.flatten()[truth.places]
    for p, t in zip(found.split(truth.counts), truth.depths.split(truth.counts), strict=True):
        if len(p):
            if relative:
                p, t = _normalised(p), _normalised(t)
            else:
                p, t = p.log(), t.log()
            losses.append((p - t).abs().mean())
    return torch.stack(losses).mean() if losses else predicted.sum() * 0.0


def _normalised(values: Tensor) -> Tensor:
    centred = values - values.median()
    return centred / centred.abs().mean().clamp_min(1e-6)


def published_segmentation(path: Path, teacher: str, dim: int, classes: int) -> SegmentationHead:
    """DINOv2's published linear segmentation head (mmseg's file: decode_head.bn.*, decode_head.conv_seg.*), for its own backbone.

    ValueError (one line) where the teacher is another network than the head was made for. The published heads belong to the
    backbones without registers, on whose features a model with registers does not agree.
    """
    if "dinov2" not in teacher or "reg" in teacher:
        raise ValueError(
            f"downstream.segmentation.head: {path} is made for the features of DINOv2 without registers, not for "
            f"{teacher or 'a teacher trained here'}; leave head out to train one on this teacher"
        )
    try:
        file, _ = tensors.read(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"downstream.segmentation.head: {path} is no .pth of tensors, or damaged ({error})") from None
    state = file.get("state_dict", file) if isinstance(file, dict) else {}
    state = {k.removeprefix("decode_head."): v for k, v in state.items() if isinstance(v, Tensor)}
    head = SegmentationHead(dim, classes)
    for name, own in head.state_dict().items():
        if name not in state:
            raise ValueError(f"downstream.segmentation.head: {path} has no decode_head.{name}; it is no linear head of DINOv2")
        if state[name].shape != own.shape:
            raise ValueError(
                f"downstream.segmentation.head: {path}: {name} is {tuple(state[name].shape)}, expected {tuple(own.shape)} for "
                f"{classes} classes on {dim} features; it belongs to another backbone or data set"
            )
    head.load_state_dict({name: state[name] for name in head.state_dict()})
    return head.eval()


def published(path: Path, layout: str, teacher: str, dim: int, classes: int) -> nn.Module:
    """The published head of a kind of labels: DINOv2's for masks, MoGe's (an experiment) for depth. ValueError as theirs."""
    return moge.load(path, dim) if layout == "depth" else published_segmentation(path, teacher, dim, classes)
