"""The autoencoder, a diffusers AutoencoderKL, and what travels beside it."""

from pathlib import Path

import torch
from torch import Tensor, nn

from reals import rng
from reals.alignment import AlignNetworks
from reals.files import read_json, write_atomically, write_json

ALIGN_CONFIG, ALIGN_WEIGHTS = "align.json", "align.safetensors"


def build(resolution: int, latent_channels: int, block_out_channels, layers_per_block: int, norm_num_groups: int) -> nn.Module:
    """A fresh AutoencoderKL; 2 ** (len(block_out_channels) - 1) is its downsampling factor."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    n = len(block_out_channels)
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=latent_channels, sample_size=resolution,
        block_out_channels=tuple(block_out_channels), layers_per_block=layers_per_block, norm_num_groups=norm_num_groups,
        down_block_types=("DownEncoderBlock2D",) * n, up_block_types=("UpDecoderBlock2D",) * n, scaling_factor=1.0,
    )  # fmt: skip


def initialise(vae: nn.Module, seed: int) -> None:
    """torch's own initialisation of every layer, as a function of ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.key(seed, "autoencoder weights"))
        for module in vae.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()


def load(folder: Path | str, device: torch.device | str = "cpu") -> nn.Module:
    """An AutoencoderKL from a diffusers folder (or hub name), frozen; safetensors first."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return AutoencoderKL.from_pretrained(str(folder)).to(device).eval().requires_grad_(False)


def save(vae: nn.Module, scaling_factor: float | None, folder: Path) -> list[str]:
    """Writes a diffusers folder, atomically per file, weights first; returns the file names."""
    from safetensors.torch import save_file

    weights = "diffusion_pytorch_model.safetensors"
    if scaling_factor is not None:
        vae.register_to_config(scaling_factor=scaling_factor)
    state = {k: v.detach().cpu().contiguous() for k, v in vae.state_dict().items()}
    write_atomically(folder / weights, lambda partial: save_file(state, partial, metadata={"format": "pt"}))
    write_atomically(folder / "config.json", lambda partial: partial.write_text(vae.to_json_string()))
    return ["config.json", weights]


def save_align(networks: AlignNetworks, folder: Path) -> list[str]:
    from safetensors.torch import save_file

    state = {k: v.detach().cpu().contiguous() for k, v in networks.state_dict().items()}
    write_atomically(folder / ALIGN_WEIGHTS, lambda partial: save_file(state, partial))
    write_json(folder / ALIGN_CONFIG, networks.settings)
    return [ALIGN_CONFIG, ALIGN_WEIGHTS]


def load_align(folder: Path, device: torch.device | str = "cpu") -> AlignNetworks | None:
    """The align networks beside an autoencoder, frozen; None where it was not aligned."""
    from safetensors.torch import load_file

    if not (folder / ALIGN_CONFIG).exists():
        return None
    networks = AlignNetworks(**read_json(folder / ALIGN_CONFIG))
    networks.load_state_dict(load_file(folder / ALIGN_WEIGHTS))
    return networks.to(device).eval().requires_grad_(False)


def to_input(images: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def moments(vae: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """x [B, 3, H, W] in [-1, 1] -> posterior (mean, logvar), each [B, C, h, w]; logvar clamped to [-30, 20]."""
    posterior = vae.encode(x).latent_dist
    return posterior.mean, posterior.logvar


def kl_per_image(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(q(z|x) || N(0, I)) in nats, summed over C, h, w: [B]. Zero for mean 0 and logvar 0."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3))
