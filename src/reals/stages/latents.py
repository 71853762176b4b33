"""Stage `latents`: the posterior moments of the training images, mirrored too where the data flip."""

import numpy as np
import torch

from reals import files
from reals.data import cache
from reals.data.cache import Put
from reals.data.latent_scale import LatentScale
from reals.data.readers import latent_layout
from reals.experiment.artefact import Artefact
from reals.experiment.specs import LatentsSpec
from reals.method.models import autoencoder as models
from reals.method.precision import running
from reals.stages.context import Context


def run(context: Context, artefact: Artefact[LatentsSpec]) -> None:
    """Fills the cache of moments, with as many processes as run this, and measures them.

    logvar and not std, because a tiny std underflows in float16. The index holds the autoencoder's own `LatentScale`
    (z_scaled = z * scaling_factor, or channel by channel), and the std and per-channel mean and std of the sampled latents of
    all training images, from sums in float64 that each shard brings.
    """
    folder = context.begin(artefact)
    images = context.images("train")
    source = context.registry.folder(artefact.needed("autoencoder"))
    made_from = {
        "id": artefact.id,
        "autoencoder": artefact.spec.autoencoder,
        "autoencoder_sha256": files.fingerprint(files.verified(source)),
        "data": artefact.spec.data,
        "data_sha256": images.fingerprint(),
    }
    vae = models.channels_last(models.load(source, context.device), context.device)
    channels, flips = context.scale.latent.channels, 1 if artefact.spec.mirrored is False else 2

    @torch.no_grad()
    def encode(span: range, put: Put) -> dict:
        total, square = torch.zeros(2, channels, dtype=torch.float64, device=context.device)
        batches = (np.arange(start, min(start + cache.BATCH, span.stop)) for start in range(span.start, span.stop, cache.BATCH))
        for _, pixels in images.ahead(batches):
            x = models.to_input(torch.from_numpy(pixels).to(context.device)).contiguous(memory_format=torch.channels_last)
            rows = []
            for view in (x, x.flip(-1))[:flips]:
                with running(context.device, artefact.spec.compute or "fp32"):
                    mean, logvar = models.moments(vae, view)
                rows.append(torch.cat([mean, logvar], dim=1).half())
                m, v = mean.double(), logvar.double().exp()
                # E[z^2] = mean^2 + var: the moments of the sampled latents without sampling them.
                total += m.sum(dim=(0, 2, 3))
                square += (m.square() + v).sum(dim=(0, 2, 3))
            put(moments=torch.stack(rows, dim=1).cpu().numpy())
        return {"sum": total.tolist(), "sum_of_squares": square.tolist()}

    def statistics(facts: list[dict]) -> dict:
        count = flips * len(images) * context.scale.latent_size**2
        mean, square = (np.sum([f[key] for f in facts], axis=0) / count for key in ("sum", "sum_of_squares"))
        std = float(np.sqrt(square.mean() - mean.mean() ** 2))
        return {
            **LatentScale.of_config(vae.config).facts(),
            "std": std,
            "channel_mean": mean.tolist(),
            "channel_std": np.sqrt(square - mean**2).tolist(),
        }

    planned = latent_layout(len(images), flips, channels, context.scale.latent_size)
    cache.make(folder, planned, made_from, encode, statistics, f"latents {artefact.name}")
