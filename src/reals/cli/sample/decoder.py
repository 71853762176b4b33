"""The autoencoder that turns a checkpoint's latents into images."""

import argparse
import hashlib
import json
import math
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from reals.data.latent_scale import LatentScale
from reals.method import checkpoints
from reals.method.checkpoints import Checkpoint
from reals.method.models import autoencoder as models
from reals.records import hub


def decoder_of(options: argparse.Namespace, checkpoint: Checkpoint, device: torch.device) -> tuple[AutoencoderKL, LatentScale]:
    """(the autoencoder, how latents are scaled)."""
    facts, folder = checkpoint.facts, options.vae
    homes = checkpoints.homes(options.checkpoint)
    # Of a run, and of one that was shared.
    places = [
        place for home in homes for place in (home.parent.parent / "autoencoders" / str(facts.get("autoencoder")), home / hub.VAE)
    ]
    own = next((place for place in places if place.is_dir()), None) if facts else None
    if folder is None and own is not None:
        folder = str(own)
        print(f"  autoencoder {own}, which it was trained on")
    if folder is None:
        raise ValueError("--vae: give the AutoencoderKL folder the checkpoint was trained on")
    if facts and Path(folder).name != facts["autoencoder"] and not (own and Path(folder).resolve() == own.resolve()):
        print(f"  NOTE: trained on the latents of {facts['autoencoder']}, decoded by {folder}")
    try:
        vae = models.load(folder, device)
    except ValueError as error:
        raise ValueError(f"--vae {error}") from None
    config = checkpoint.model.config
    if vae.config["latent_channels"] != config.latent_channels:
        raise ValueError(
            f"--vae {folder}: {vae.config['latent_channels']} latent channels, but {options.checkpoint} makes {config.latent_channels}"
        )
    scale = LatentScale.of(facts) if facts else LatentScale.of_config(vae.config)
    if not facts and options.scaling_factor is None:
        settings = Path(folder) / "config.json"
        if not settings.is_file() or "scaling_factor" not in json.loads(settings.read_text(encoding="utf-8-sig")):
            print(f"  scaling factor {scale.factor}, Stable Diffusion's: {folder} states none")
    scale = scale.times(options.scaling_factor)
    if not 0 < scale.factor < math.inf:
        raise ValueError(f"scaling factor: got {scale.factor}, expected a positive number")
    return models.channels_last(vae, device), scale


def fingerprint(module: torch.nn.Module) -> str:
    """A hash of all weights, whatever file they came in."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy())
    return digest.hexdigest()
