"""EQ-VAE's regulariser: decoded, latents that were scaled and turned shall be the image, scaled and turned.

Kouzelis et al. 2025, arXiv:2502.09509. For a transformation tau of a batch, the loss is the autoencoder's own (Eq. 3 here) of
D(tau E(x)) against tau x in place of D(E(x)) against x. There is no further term and no teacher.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from reals.experiment.specs import EquivarianceSpec

AUTHORS = EquivarianceSpec(probability=0.5, low_resolution=0.25, smallest=0.25, cells=None)
"""The regulariser in half of the steps, small images in a quarter of the others, scales from a quarter on: the authors' setting."""


@dataclass(frozen=True)
class Transformation:
    """Scales squares to ``cells`` / ``of`` of their side, then turns them ``turns`` times by 90 degrees.

    ``of_latents``: it acts between encoder and decoder (the regulariser). Else it acts on the image before the encoder, so that the
    autoencoder also reconstructs small images well (the authors' "prior preservation").
    """

    cells: int
    of: int
    turns: int
    of_latents: bool

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, C, H, W], square (else ValueError), latents or images in any range -> tau x; bilinear, as the authors scale."""
        if x.shape[-2] != x.shape[-1]:
            raise ValueError(f"equivariance: got {tuple(x.shape)}, expected square latents or images; cut them to squares")
        return torch.rot90(resized(x, x.shape[-1] * self.cells // self.of), self.turns, dims=(-1, -2))


def draw(generator: torch.Generator, side: int, chances: EquivarianceSpec = AUTHORS) -> Transformation | None:
    """The transformation of one batch whose latents have ``side`` cells a side; None: the plain step.

    Scales are uniform over the whole cells that ``chances`` allow, turns over 90, 180 and 270 degrees. For the authors' 32x32 latents
    these are their 24 scales, 8/32 to 31/32. ValueError where there is none.
    """
    regularised, low = torch.rand(2, generator=generator).tolist()
    sides = chances.sides(side)
    if not sides:
        raise ValueError(
            f"equivariance: latents of {side} cells a side have no side from {chances.smallest} of that on that is smaller"
            + (f" and of whole {chances.cells}s" if chances.cells else "")
        )
    cells = sides[int(torch.randint(len(sides), (), generator=generator))]
    turns = int(torch.randint(1, 4, (), generator=generator))
    if regularised < chances.probability:
        return Transformation(cells, side, turns, of_latents=True)
    return Transformation(cells, side, 0, of_latents=False) if low < chances.low_resolution else None


def resized(x: Tensor, side: int) -> Tensor:
    """x [B, C, H, W] at side x side, bilinear without antialiasing, as the authors scale; x itself where it is of that size."""
    if x.shape[-2:] == (side, side):
        return x
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)


def tokens_at(patch: Tensor, side: int) -> Tensor:
    """A teacher's patch features [B, N, D] on a smaller square grid: [B, side*side, D], `resized` as the images were.

    Our choice for arms that are aligned too, which EQ-VAE does not have.
    """
    grid = math.isqrt(patch.shape[1])
    if grid in (0, side):
        return patch
    square = patch.transpose(1, 2).unflatten(2, (grid, grid))
    return resized(square, side).flatten(2).transpose(1, 2)
