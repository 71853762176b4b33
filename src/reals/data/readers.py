"""The two caches by what they hold: a teacher's features, and latents as posterior moments; how a row is laid out, and how it is read."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reals.data.cache import Cache, Layout
from reals.data.dataset import Images, Indices
from reals.data.latent_scale import LatentScale

Flips = Indices | Tensor


def feature_layout(images: int, flips: int, grid: int, width: int, cls_only: bool = False) -> Layout:
    """One row: the patches [grid*grid, width] in row order (unless ``cls_only``) and the cls token [width]."""
    patch = {} if cls_only else {"patch": (grid**2, width)}
    return Layout(images, flips, patch | {"cls": (width,)})


class CachedFeatures(Cache):
    """Teacher features by image index, from the cache."""

    @property
    def dim(self) -> int:
        return self.layout.fields["cls"][-1]

    def __call__(self, indices: Indices, flips: Flips, images: Tensor | None) -> tuple[Tensor, Tensor]:
        """(patches [B, T, D], cls [B, D]), float32; T is 0 where the cls token alone was cached. ``images`` is not looked at."""
        flips = np.asarray(flips)
        cls = torch.from_numpy(self.rows("cls", indices, flips)).float()
        if "patch" not in self.layout.fields:
            return cls.new_empty(len(cls), 0, self.dim), cls
        return torch.from_numpy(self.rows("patch", indices, flips)).float(), cls


def latent_layout(images: int, flips: int, channels: int, size: int) -> Layout:
    """One row: mean and logvar [2C, h, w]. ``flips`` is 2 where the data flip, because the encoder is not flip-equivariant."""
    return Layout(images, flips, {"moments": (2 * channels, size, size)})


class Latents(Cache):
    """Scaled sampled latents by image index, from the cache; scaled as the autoencoder's own are, by another factor if one is given."""

    def __init__(self, folder: Path, images: Images | None = None, scaling_factor: float | None = None):
        super().__init__(folder, images)
        self.scale = LatentScale.of(self.manifest, scaling_factor)

    def batch(self, indices: Indices, flips: Flips, noise: Tensor) -> Tensor:
        """noise [B, C, h, w] -> mean + std * noise, scaled (`LatentScale`), float32."""
        mean, logvar = torch.from_numpy(self.rows("moments", indices, np.asarray(flips))).chunk(2, dim=1)
        std = logvar.float().mul_(0.5).exp_()
        return self.scale.scaled_(torch.addcmul(mean.float(), std, noise))
