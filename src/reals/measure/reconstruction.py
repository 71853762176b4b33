"""How well an autoencoder gives its images back: rFID, PSNR, SSIM and LPIPS (Table 8)."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from reals.data.dataset import Images
from reals.measure.extractor import Extractor, extract
from reals.measure.features import batches
from reals.measure.latents import BATCH, sampled
from reals.measure.metrics.frechet import Moments, frechet_distance
from reals.measure.metrics.reconstruction import psnr, ssim, ssim_paper
from reals.method.models import autoencoder as models
from reals.method.models.autoencoder import to_uint8

if TYPE_CHECKING:  # diffusers is imported where it is used: it takes seconds
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

PAGE = 6400  # images in memory at a time: whole batches of ours and of the feature extractor's, so that paging changes no bit


@torch.no_grad()
def reconstruction_scores(
    vae: "AutoencoderKL", images: Images, indices: np.ndarray, lpips: nn.Module, extractor: Extractor, seed: int
) -> dict[str, float]:
    """rFID, PSNR, SSIM and LPIPS of the images ``indices``; of pixels no more than a page is in memory.

    Reconstructions decode a posterior *sample*, as the published rows do (LlamaGen's protocol); ``*_mean`` values decode
    the mean. Both are rounded to bytes before they are compared.
    """
    device = next(vae.parameters()).device
    scores: dict[str, list[Tensor]] = {}
    features: dict[str, list[Tensor]] = {"real": [], "": [], "_mean": []}
    for first in range(0, len(indices), PAGE):
        page = torch.from_numpy(images.batch(indices[first : first + PAGE]))
        decoded: dict[str, list[Tensor]] = {"": [], "_mean": []}
        for start in range(0, len(page), BATCH):
            x = models.to_input(page[start : start + BATCH].to(device))
            mean, logvar = models.moments(vae, x)
            for suffix, z in (("", sampled(mean, logvar, seed, first + start)), ("_mean", mean)):
                bytes_ = to_uint8(vae.decode(z).sample)
                decoded[suffix].append(bytes_.cpu())
                for name, score in _pixel_scores(x, bytes_, lpips).items():
                    scores.setdefault(name + suffix, []).append(score.cpu())
        for name, some in (("real", page), *((suffix, torch.cat(parts)) for suffix, parts in decoded.items())):
            features[name].append(extract(extractor, batches(some.numpy())).pool)
    values = {name: float(torch.cat(parts).mean()) for name, parts in scores.items()}
    real, *made = (Moments.of(torch.cat(parts)).finalize() for parts in features.values())
    for suffix, found in zip(("", "_mean"), made, strict=True):
        values[f"rfid{suffix}"] = frechet_distance(real.mu, real.sigma, found.mu, found.sigma)
    return values


def _pixel_scores(x: Tensor, bytes_: Tensor, lpips: nn.Module) -> dict[str, Tensor]:
    """Scores [B] of reconstructions uint8 [B, 3, R, R] against their images x in [-1, 1]."""
    truth, made = (x + 1) / 2, bytes_.float() / 255
    return {
        "psnr": psnr(truth, made),
        "ssim": ssim(truth, made),
        "ssim_paper": ssim_paper(truth, made),
        "lpips": lpips(made * 2 - 1, x).flatten(),
    }
