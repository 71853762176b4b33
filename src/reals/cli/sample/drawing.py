"""How one batch of images is drawn: noise to latents to bytes."""

import argparse
from collections.abc import Callable

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from reals.cli.sample.parts import Report
from reals.data.latent_scale import LatentScale
from reals.method.models.transformer import Transformer
from reals.method.sampling import InPrecision, Sampling, decode, draw


def maker(
    options: argparse.Namespace,
    model: Transformer,
    sampling: Sampling,
    classes: np.ndarray,
    vae: AutoencoderKL,
    scale: LatentScale,
    device: torch.device,
) -> Callable[[list[int], Report], np.ndarray]:
    """A function that draws the samples of some indices, each of its class, as uint8 [k, H, W, 3]; bf16 casts ``model`` in place."""
    network = InPrecision(model, options.precision)
    if options.compile:
        network.compile()

    @torch.no_grad()
    def make(indices: list[int], report: Report) -> np.ndarray:
        y = torch.from_numpy(classes[indices]).to(device)
        z = scale.unscaled(draw(network, sampling, options.seed, y, indices, device, report))
        images = decode(vae, z, indices, str(options.checkpoint), options.precision)
        return images.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    return make
