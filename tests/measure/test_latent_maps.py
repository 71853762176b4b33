"""The anchor of a token map lies on the object; the images of the t-SNE may be of either split."""

import numpy as np
import torch
from small import tiny

from reals.measure.latent_maps import Classes, _indices, _pooled, anchor, latent_maps
from reals.method.models import autoencoder as models


def test_the_anchor_lies_on_the_object():
    image = np.zeros((3, 32, 32), np.uint8)
    image[:, 13:15, 20:23] = 255
    assert anchor(image, 8) == (3, 5)


def test_the_t_sne_may_see_the_cells_of_a_grid_standardised(context):
    """Each cell of each channel: mean 0 and deviation 1 over the images. One of no variance is 0, not a division by 0."""
    held_out, vae = context.images("held_out"), tiny().eval()
    seen = latent_maps(vae, held_out, Classes(held_out, 3, 4, 2), 5).pooled
    drawn = torch.from_numpy(held_out.batch(_indices(held_out, Classes(held_out, 3, 4), 5)))
    z = models.moments(vae, models.to_input(drawn))[0]
    half = z.shape[-1] // 2
    corner = z[:, 0, :half, half:].mean(dim=(1, 2)).double()
    expected = (corner - corner.mean()) / corner.std()
    assert seen.shape == (len(drawn), z.shape[1] * 4)
    torch.testing.assert_close(seen[:, 1].double(), expected, rtol=1e-3, atol=1e-4)
    assert _pooled(torch.ones(5, 2, 4, 4), 2).abs().max() == 0


def test_the_classes_may_be_shown_by_training_images_and_the_maps_stay_those_of_held_out_ones(context):
    train, held_out, vae = context.images("train"), context.images("held_out"), tiny().eval()
    usual = latent_maps(vae, held_out, Classes(held_out, 3, 4), 5)
    asked = latent_maps(vae, held_out, Classes(train, 3, 4), 5)
    classes, counts = np.unique(asked.arrays["labels"], return_counts=True)
    assert counts.tolist() == [4, 4, 4] and asked.arrays["tsne"].shape == (12, 2)
    assert np.unique(usual.arrays["labels"], return_counts=True)[1].tolist() == [2, 2, 2]  # all that are held out
    assert classes.tolist() == np.unique(usual.arrays["labels"]).tolist()
    for name in ("images", "reconstructions", "maps", "anchors"):
        assert np.array_equal(asked.arrays[name], usual.arrays[name])
    assert {*usual.arrays} - {*latent_maps(vae, held_out, Classes(held_out, 3, 4, drawn=False), 5).arrays} == {"tsne"}
    drawn = train.batch(_indices(train, Classes(train, 3, 4), 5))
    mean = models.moments(vae, models.to_input(torch.from_numpy(drawn)))[0].mean(dim=(2, 3))
    torch.testing.assert_close(asked.pooled, mean, rtol=1e-4, atol=1e-5)
