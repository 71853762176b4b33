"""What an autoencoder's latents are like: their consistency under augmentation, the classes in them, their size (Table 2, Figure 5)."""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from reals import rng
from reals.data.dataset import Images
from reals.experiment.paper import Augmentations
from reals.measure.metrics import semantics
from reals.method.models import autoencoder as models
from reals.progress import Progress

if TYPE_CHECKING:  # diffusers is imported where it is used: it takes seconds
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

BATCH = 100
SCALE_BATCH = 64  # of the latent scale's measurement


def chosen(images: Images, count: int, seed: int) -> np.ndarray:
    """``count`` indices in random order, fixed by the seed (prepared data are sorted by class)."""
    return rng.permutation(seed, "analysis", n=len(images))[:count]


@torch.no_grad()
def posterior_means(vae: "AutoencoderKL", images: Images, indices: np.ndarray) -> Tensor:
    """Posterior means [N, C, h, w] of the images ``indices``, on the CPU."""
    device = next(vae.parameters()).device
    blocks = [torch.from_numpy(images.batch(indices[i : i + BATCH])) for i in range(0, len(indices), BATCH)]
    return torch.cat([models.moments(vae, models.to_input(b.to(device)))[0].cpu() for b in blocks])


def sampled(mean: Tensor, logvar: Tensor, seed: int, start: int) -> Tensor:
    """A posterior sample of each latent [B, C, h, w]; that of row i depends on (seed, ``start`` + i) alone."""
    noise = torch.stack([
        torch.randn(mean.shape[1:], generator=rng.generator(seed, "posterior", start + i))
        for i in range(len(mean))
    ])  # fmt: skip
    return mean + torch.exp(0.5 * logvar) * noise.to(mean)


@torch.no_grad()
def consistency(vae: "AutoencoderKL", images: Tensor, augmentations: Augmentations, seed: int) -> dict[str, float]:
    """Semantic consistency (Algorithm 1) of images uint8 [N, 3, R, R] under each augmentation, plain and centred."""
    device = next(vae.parameters()).device
    views = semantics.ViewSettings(
        crop_scale=augmentations.crop_scale,
        crop_ratio=augmentations.crop_ratio,
        flip_probability=augmentations.flip_probability,
        blur_probability=augmentations.blur_probability,
        blur_sigma=augmentations.blur_sigma,
        blur_kernel=max(3, round(augmentations.blur_kernel_fraction * images.shape[-1]) // 2 * 2 + 1),
        grayscale_probability=augmentations.grayscale_probability,
    )

    def encode(x: Tensor) -> Tensor:
        return models.moments(vae, (2 * x - 1).to(device))[0].cpu()

    values: dict[str, float] = {}
    for name in semantics.AUGMENTATIONS:
        made = semantics.semantic_consistency(encode, images.float() / 255, name, views, seed)
        values |= {f"sc_{name}": made.sc, f"sc_centred_{name}": made.centred}
    return values


@torch.no_grad()
def probe_scores(
    vae: "AutoencoderKL", train: Images, train_indices: np.ndarray, test: Images, test_indices: np.ndarray, k: int
) -> dict[str, float]:
    """Accuracy of k nearest neighbours and of a linear probe on spatially averaged posterior means."""
    train_z, test_z = (
        posterior_means(vae, images, indices).mean(dim=(2, 3))
        for images, indices in ((train, train_indices), (test, test_indices))
    )
    train_y, test_y = torch.from_numpy(train.labels[train_indices]), torch.from_numpy(test.labels[test_indices])
    return {
        "knn": semantics.knn_accuracy(train_z, train_y, test_z, test_y, k),
        "linear_probe": semantics.linear_probe_accuracy(train_z, train_y, test_z, test_y),
    }


@torch.no_grad()
def latent_std(vae: "AutoencoderKL", images: Tensor) -> float:
    """Std over all elements of the sampled latents of images uint8 [N, 3, R, R]: the size of a point in Figure 5."""
    device, statistics = next(vae.parameters()).device, models.LatentStatistics()
    for start in range(0, len(images), BATCH):
        statistics.add(*models.moments(vae, models.to_input(images[start : start + BATCH].to(device))))
    return statistics.std


@torch.no_grad()
def latent_statistics(vae: "AutoencoderKL", images: Images, count: int, seed: int, flip: bool) -> models.LatentStatistics:
    """Statistics of the sampled latents of ``count`` of the images (or all), chosen by the seed; with ``flip`` mirrored too.

    ValueError where latents have no finite spread above 0, whose inverse is the latent scale.
    """
    statistics = models.LatentStatistics()
    chosen = np.sort(rng.permutation(seed, "latent scale", n=len(images))[:count])
    statistics.images = len(chosen)
    progress = Progress("latent scale", len(chosen) * (1 + flip))
    for mirrored in (False, True)[: 1 + flip]:
        done = mirrored * len(chosen)
        for indices, block in images.ahead(chosen[i : i + SCALE_BATCH] for i in range(0, len(chosen), SCALE_BATCH)):
            pixels = torch.from_numpy(block).to(vae.device)
            statistics.add(*models.moments(vae, models.to_input(pixels.flip(-1) if mirrored else pixels)))
            progress.update(done := done + len(indices))
    if not math.isfinite(statistics.std) or statistics.std == 0:
        raise ValueError(
            f"the latents have standard deviation {statistics.std}; the autoencoder is of no use, look at its log.jsonl"
        )
    return statistics
