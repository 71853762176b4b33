"""Pictures of a latent space (Figure 1): classes in two dimensions, and which tokens of an image resemble one of them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reals import rng
from reals.data.dataset import Images
from reals.measure.latents import posterior_means, sampled
from reals.measure.metrics import semantics
from reals.method.models import autoencoder as models
from reals.method.models.autoencoder import to_uint8

if TYPE_CHECKING:  # diffusers is imported where it is used: it takes seconds
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

MAPS = 6  # images with token-similarity maps


@dataclass(frozen=True)
class Classes:
    """Which images the t-SNE shows: ``each`` of ``count`` classes (or all, where there are fewer), of ``of``; and what of them.

    ``grid``: the means over that many cells a side, standardised; None: the mean over all tokens. ``drawn``: False leaves the t-SNE
    itself out.
    """

    of: Images
    count: int
    each: int
    grid: int | None = None
    drawn: bool = True


@dataclass(frozen=True)
class LatentMaps:
    """Spatially averaged posterior means ``pooled`` [N, C], or [N, C * grid^2], and what is drawn of them, by name of the array."""

    pooled: Tensor
    arrays: dict[str, np.ndarray]


@torch.no_grad()
def latent_maps(vae: "AutoencoderKL", held_out: Images, classes: Classes, seed: int) -> LatentMaps:
    """t-SNE of pooled latents of a few classes, and cosine maps of a few held-out images' tokens to one anchor.

    Arrays: ``tsne`` [N, 2] where it is drawn, ``labels`` [N]; of six of the images ``images`` and ``reconstructions`` uint8 [6, R, R, 3],
    ``maps`` [6, h, w] and ``anchors`` [6, 2], the token (row, column) that a map's cosines are with.
    """
    device = next(vae.parameters()).device
    indices = _indices(classes.of, classes, seed)
    z = posterior_means(vae, classes.of, indices)
    pooled, labels = _pooled(z, classes.grid), classes.of.labels[indices]
    if classes.of is not held_out:
        indices = _indices(held_out, classes, seed)
        z = posterior_means(vae, held_out, indices)
    shown = np.linspace(0, len(indices) - 1, MAPS).round().astype(int)
    pixels = held_out.batch(indices[shown])
    anchors = np.array([anchor(image, z.shape[-1]) for image in pixels])
    maps = torch.stack([semantics.token_similarity(z[i], tuple(a)) for i, a in zip(shown, anchors.tolist(), strict=True)])
    mean, logvar = models.moments(vae, models.to_input(torch.from_numpy(pixels).to(device)))
    decoded = to_uint8(vae.decode(sampled(mean, logvar, seed, 0)).sample).cpu().numpy()
    tsne = {"tsne": semantics.tsne(pooled, seed, min(30.0, (len(pooled) - 1) / 3)).astype(np.float32)} if classes.drawn else {}
    arrays = tsne | {
        "labels": labels,
        "images": pixels.transpose(0, 2, 3, 1),
        "reconstructions": decoded.transpose(0, 2, 3, 1),
        "maps": maps.numpy().astype(np.float32),
        "anchors": anchors,
    }
    return LatentMaps(pooled, arrays)


def _pooled(z: Tensor, grid: int | None) -> Tensor:
    """What the t-SNE sees of latents z [N, C, h, w]. In raw means of few channels, the one of largest variance hides the others."""
    if grid is None:
        return z.mean(dim=(2, 3))
    cells = F.adaptive_avg_pool2d(z, grid).flatten(1)
    return (cells - cells.mean(dim=0)) / cells.std(dim=0).clamp_min(1e-6)


def _indices(images: Images, classes: Classes, seed: int) -> np.ndarray:
    """Some images of some classes, both drawn at random, in the order of the classes."""
    drawn = np.sort(rng.permutation(seed, "t-SNE classes", n=len(images.classes))[: classes.count])
    of_class = {c: np.flatnonzero(images.labels == c) for c in drawn}
    return np.concatenate([
        rows[rng.permutation(seed, "t-SNE images", int(c), n=len(rows))[: classes.each]] for c, rows in of_class.items()
    ])  # fmt: skip


def anchor(image: np.ndarray, grid: int) -> tuple[int, int]:
    """The token whose pixels vary most: a place on the object, the same for every autoencoder. Our choice."""
    tokens = image.mean(axis=0).reshape(grid, image.shape[1] // grid, grid, image.shape[2] // grid)
    best = int(tokens.std(axis=(1, 3)).argmax())
    return best // grid, best % grid
