"""A look at where a transformer's training stands: a small fixed grid of images."""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from reals import files
from reals.data.latent_scale import LatentScale
from reals.method.models import autoencoder as autoencoders
from reals.method.models.transformer import Transformer
from reals.method.sampling import Sampling, decode, draw
from reals.training.tasks.transformer import TransformerTask

COUNT, COLUMNS = 16, 8


class Pictures:
    """Draws a small fixed grid of images by the EMA through the real sampler and decoder: a look at where training stands.

    Sample k has class k mod classes and its own noise, the same each time. Nothing here is shared with the training but
    the EMA's values, so a run with pictures has the bits of one without.
    """

    def __init__(self, task: TransformerTask, autoencoder: Path, scale: LatentScale, steps: int):
        self.task, self.autoencoder, self.scale = task, autoencoder, scale
        self.sampling = Sampling("ddpm" if task.spec.family == "DiT" else "sde", steps, path=task.spec.interpolant or "linear")
        self.model: Transformer | None = None

    def __call__(self, path: Path) -> None:
        """Writes the PNG ``path``; where the samples are not finite it says so and training goes on."""
        device, config = self.task.device, self.task.model.config
        if self.model is None:
            self.model = Transformer(config).eval().requires_grad_(False).to(device)
            self.vae = autoencoders.load(self.autoencoder, device)
        self.model.load_state_dict(self.task.ema)
        indices = list(range(COUNT))
        y = torch.arange(COUNT, device=device) % config.classes
        with torch.no_grad():
            z = self.scale.unscaled(draw(self.model, self.sampling, self.task.spec.seed, y, indices, device))
        try:
            images = decode(self.vae, z, indices, path.stem).cpu().numpy()
        except FloatingPointError as error:
            print(f"no picture: {error}", file=sys.stderr)
            return
        rows = [np.concatenate(images[k : k + COLUMNS], axis=2) for k in range(0, COUNT, COLUMNS)]
        page = np.concatenate(rows, axis=1).transpose(1, 2, 0)
        files.write_atomically(path, lambda partial: Image.fromarray(page).save(partial, format="PNG"))
