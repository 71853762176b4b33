"""Random shifts and crops of training images, as functions of a generator."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from reals.training.batches import sent


def shifted(x: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """x [B, C, H, W] moved by up to ``reach`` pixels each way, edges repeated; one draw per image."""
    height, width = x.shape[-2:]
    padded = F.pad(x.float(), (reach,) * 4, mode="replicate").to(x.dtype)
    offsets = torch.randint(0, 2 * reach + 1, (len(x), 2), generator=generator).tolist()
    return torch.stack([p[:, i : i + height, j : j + width] for p, (i, j) in zip(padded, offsets, strict=True)])


def cropped(x: Tensor, scale: tuple[float, float], generator: torch.Generator) -> Tensor:
    """x [B, C, H, W] uint8 as random crops at the same size: area a uniform share within ``scale``, aspect ratio log-uniform
    in 3/4..4/3 where the image is large enough for it (torchvision's and SimCLR's customary range); float32, bilinear."""
    area, ratio, across, down = torch.rand(4, len(x), generator=generator)
    area = scale[0] + (scale[1] - scale[0]) * area
    stretch = torch.exp((2 * ratio - 1) * math.log(4 / 3) / 2)
    width, height = (area.sqrt() * stretch).clamp(max=1), (area.sqrt() / stretch).clamp(max=1)
    theta = torch.zeros(len(x), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = width, height
    theta[:, 0, 2], theta[:, 1, 2] = (1 - width) * (2 * across - 1), (1 - height) * (2 * down - 1)
    grid = F.affine_grid(sent(theta, x.device), list(x.shape), align_corners=False)
    return F.grid_sample(x.float(), grid, padding_mode="border", align_corners=False)
