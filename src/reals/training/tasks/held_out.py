"""How the autoencoder does on a fixed batch of held-out images while it is trained: numbers for the log, and a picture."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from reals import files
from reals.data.dataset import Images
from reals.measure.metrics.reconstruction import psnr
from reals.method.models import autoencoder as models
from reals.method.models.autoencoder import to_uint8

if TYPE_CHECKING:  # diffusers is imported where it is used: it takes seconds
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

BATCH = 64  # encoded and decoded at a time
GRID_ROWS = 8  # of two pairs


class HeldOut:
    """The first ``count`` held-out images, on the device, and what ``vae`` makes of them."""

    def __init__(self, vae: "AutoencoderKL", images: Images, count: int, device: torch.device):
        self.vae = vae
        self.pixels = torch.from_numpy(images.batch(np.arange(min(count, len(images))))).to(device)

    @torch.no_grad()
    def record(self) -> dict[str, Tensor]:
        """PSNR of the decoded posterior means, KL per image, and statistics of the sampled latents, also per channel."""
        statistics, kl, quality, spread = models.LatentStatistics(), [], [], []
        for pixels in self.pixels.split(BATCH):
            x = models.to_input(pixels)
            mean, logvar = models.moments(self.vae, x)
            statistics.add(mean, logvar)
            kl.append(models.kl_per_image(mean, logvar))
            spread.append(torch.exp(0.5 * logvar).mean(dim=(1, 2, 3)))
            quality.append(psnr((x + 1) / 2, (self.vae.decode(mean).sample.clamp(-1, 1) + 1) / 2))
        channels = {
            f"held_out_latent_{name}_{c}": value
            for name, values in (("mean", statistics.channel_mean), ("std", statistics.channel_std))
            for c, value in enumerate(values.to(self.pixels.device))
        }
        return {
            "held_out_psnr": torch.cat(quality).mean(),
            "held_out_kl": torch.cat(kl).mean(),
            "held_out_posterior_std": torch.cat(spread).mean(),
            "held_out_latent_mean": statistics.channel_mean.mean().to(self.pixels.device),
            "held_out_latent_std": torch.tensor(statistics.std, device=self.pixels.device),
            **channels,
        }

    @torch.no_grad()
    def grid(self, path: Path) -> None:
        """A picture of held-out images, each with its reconstruction on its right."""
        shown = self.pixels[: 2 * GRID_ROWS]
        x = models.to_input(shown)
        made = to_uint8(self.vae.decode(models.moments(self.vae, x)[0]).sample)
        pairs = torch.cat([shown, made.to(shown)], dim=3)  # [B, 3, H, 2W]
        pairs = F.pad(pairs, (0, 0, 0, 0, 0, 0, 0, -len(pairs) % 2))
        picture = pairs.unflatten(0, (-1, 2)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
        image = Image.fromarray(picture.cpu().numpy())
        files.write_atomically(path, lambda partial: image.save(partial, format="png"))
