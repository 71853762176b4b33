"""Stage `latents`: the posterior moments of the training images, both flips."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reals import files
from reals.journal import work
from reals.models import autoencoder as models
from reals.progress import Progress
from reals.registry import Artefact
from reals.stages import Context

BATCH = 64


def run(context: Context, artefact: Artefact) -> None:
    """Writes moments.npy, float16 [2, N, 2C, h, w]: (plain, mirrored) x images x (mean, logvar).

    Both flips, because the encoder is not flip-equivariant; logvar and not std, because a tiny std underflows.
    The manifest holds ``scaling_factor``, the autoencoder's own (one scalar; z_scaled = z * scaling_factor), and the std
    and per-channel mean and std of the sampled latents of all training images.
    """
    folder = context.begin(artefact)
    images = context.images("train")
    source = context.registry.folder(artefact.needed("autoencoder"))
    files.opened(source)
    vae = models.load(source, context.device).to(memory_format=torch.channels_last)
    c, size = context.scale.latent.channels, context.scale.latent_size
    total, square, count = np.zeros(c), np.zeros(c), 0
    progress = Progress(f"latents {artefact.name}", 2 * len(images))

    @torch.no_grad()
    def write(partial: Path) -> None:
        nonlocal total, square, count
        moments = np.lib.format.open_memmap(partial, "w+", np.float16, (2, len(images), 2 * c, size, size))
        for f, flip in enumerate((False, True)):
            for start in range(0, len(images), BATCH):
                indices = np.arange(start, min(start + BATCH, len(images)))
                pixels = torch.from_numpy(images.batch(indices, np.full(len(indices), flip))).to(context.device)
                mean, logvar = models.moments(vae, models.to_input(pixels))
                moments[f, indices] = torch.cat([mean, logvar], dim=1).cpu().numpy()
                if flip and not context.scale.data.flip:
                    continue
                m, v = mean.double(), logvar.double().exp()
                # E[z^2] = mean^2 + var: the moments of the sampled latents without sampling them.
                total += m.sum(dim=(0, 2, 3)).cpu().numpy()
                square += (m.square() + v).sum(dim=(0, 2, 3)).cpu().numpy()
                count += len(indices) * size * size
                progress.update(f * len(images) + start + len(indices))
        if not np.isfinite(moments[0, -BATCH:].astype(np.float32)).all() or not np.isfinite(square).all():
            raise ValueError(f"{source}: its latents do not fit float16 or are not finite; look at its log.jsonl")
        moments.flush()

    with work():
        files.write_atomically(folder / "moments.npy", write)
    channel_mean, channel_square = total / count, square / count
    std = float(np.sqrt(channel_square.mean() - channel_mean.mean() ** 2))
    files.seal(
        folder, ["moments.npy"], autoencoder=artefact.spec["autoencoder"], data=artefact.spec["data"], images=len(images),
        scaling_factor=vae.config.scaling_factor, std=std, channel_mean=channel_mean.tolist(),
        channel_std=np.sqrt(channel_square - channel_mean**2).tolist(),
    )  # fmt: skip


class Latents:
    """Scaled sampled latents by image index, from the cache."""

    IN_MEMORY = 2**30  # bytes up to which the cache is simply read whole

    def __init__(self, folder: Path):
        self.manifest = files.opened(folder)
        path = folder / "moments.npy"
        self.moments = np.load(path, mmap_mode=None if path.stat().st_size < self.IN_MEMORY else "r")
        self.scaling_factor: float = self.manifest["scaling_factor"]

    def __len__(self) -> int:
        return self.moments.shape[1]

    def batch(self, indices, flips: np.ndarray, noise: Tensor) -> Tensor:
        """noise [B, C, h, w] -> (mean + std * noise) * scaling_factor, float32."""
        moments = torch.from_numpy(self.moments[np.asarray(flips).astype(int), indices]).float()
        mean, logvar = moments.chunk(2, dim=1)
        return (mean + torch.exp(0.5 * logvar) * noise) * self.scaling_factor
