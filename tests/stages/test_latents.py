"""The latent cache holds both flips, where the data flip, at unit scale, however it is cut."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from reals.data import cache, readers
from reals.method.models import autoencoder as models
from reals.stages import (
    autoencoder,
    latents,
)


@pytest.mark.slow
def test_the_latent_cache_holds_both_flips_at_unit_scale_where_the_data_flip(context):
    r = context.registry
    autoencoder.run(context, r.autoencoders["sd-vae"])
    latents.run(context, r.latents["sd-vae"])
    cache = readers.Latents(context.folder(r.latents["sd-vae"]))
    noise = torch.zeros(2, 4, *cache.rows("moments", [0], np.zeros(1, int)).shape[2:])
    double = readers.Latents(context.folder(r.latents["sd-vae"]), scaling_factor=2 * cache.scale.factor)
    pair = [c.batch([0, 1], np.zeros(2, int), noise) for c in (cache, double)]
    torch.testing.assert_close(pair[1], 2 * pair[0])
    vae = models.load(context.folder(r.autoencoders["sd-vae"]))
    indices, flips = np.arange(80), np.arange(80) % 3 == 0
    noise = torch.randn(80, 4, 8, 8)
    pixels = torch.from_numpy(context.images("train").batch(indices, flips))
    with torch.no_grad():
        mean, logvar = models.moments(vae, models.to_input(pixels))
    direct = (mean + torch.exp(0.5 * logvar) * noise) * cache.scale.factor
    torch.testing.assert_close(cache.batch(indices, flips, noise), direct, rtol=2**-8, atol=2**-8)
    everything = torch.cat([cache.batch(indices, np.full(80, f), torch.randn(80, 4, 8, 8)) for f in (False, True)])
    assert everything.std() == pytest.approx(1.0, abs=0.03)
    # Mirroring the image is not mirroring its latent: that is why both are cached.
    mirrored = cache.batch(indices, np.ones(80, bool), torch.zeros(80, 4, 8, 8))
    assert not torch.allclose(mirrored, cache.batch(indices, np.zeros(80, bool), torch.zeros(80, 4, 8, 8)).flip(-1), atol=1e-3)

    plain = replace(r.latents["sd-vae"], spec=replace(r.latents["sd-vae"].spec, mirrored=False))
    latents.run(context, plain)
    alone = readers.Latents(context.folder(plain))
    assert alone.layout.flips == 1
    assert np.array_equal(*(c.rows("moments", indices, np.zeros(80, int)) for c in (alone, cache)))


@pytest.mark.slow
def test_the_latent_scale_is_the_same_for_any_sharding_and_data_it_was_not_made_from_is_refused(context, monkeypatch):

    r = context.registry
    autoencoder.run(context, r.autoencoders["sd-vae"])
    folder = context.folder(r.latents["sd-vae"])
    scales = {}
    for size in (cache.SHARD_IMAGES, 16):
        monkeypatch.setattr(cache, "BATCH", 16)
        monkeypatch.setattr(
            latents, "latent_layout", lambda *a, size=size: cache.Layout(a[0], a[1], {"moments": (2 * a[2], a[3], a[3])}, size)
        )
        latents.run(context, r.latents["sd-vae"])
        read = readers.Latents(folder)
        keys = ("scaling_factor", "std", "channel_mean", "channel_std")
        scales[len(read.layout)] = np.concatenate([np.atleast_1d(read.manifest[key]) for key in keys])
        folder.rename(folder.with_name(f"moved-{size}"))
    assert list(scales) == [1, 5]
    np.testing.assert_allclose(scales[1], scales[5], rtol=1e-12)
    folder.with_name("moved-16").rename(folder)
    readers.Latents(folder, context.images("train"))
    with pytest.raises(ValueError, match="was made from 80 images of other files than the 20 there are now"):
        readers.Latents(folder, context.images("held_out"))
