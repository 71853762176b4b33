"""EQ-VAE's transformations beside numpy, how often which is drawn, and what the step makes of them."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from small import LPIPS, task

from reals.experiment.specs import EquivarianceSpec
from reals.method import equivariance
from reals.method.autoencoder_objective import autoencoder_loss
from reals.method.equivariance import AUTHORS, Transformation
from reals.method.models import autoencoder as models
from reals.rng import generator

ALWAYS = EquivarianceSpec(probability=1.0, low_resolution=0.0, smallest=0.25, cells=None)


def bilinear(image: np.ndarray, side: int) -> np.ndarray:
    """[H, H] at side x side: pixel centres at (i + 0.5) H / side - 0.5, beyond the edge the edge's value."""
    whole = len(image)
    at = np.clip((np.arange(side) + 0.5) * whole / side - 0.5, 0, None)
    low = np.minimum(at.astype(int), whole - 1)
    high, part = np.minimum(low + 1, whole - 1), at - low
    rows = image[low] * (1 - part)[:, None] + image[high] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, high] * part


@pytest.mark.parametrize("cells", [2, 3, 5, 7])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_latents_and_images_are_scaled_and_turned_alike(cells, turns):
    t = Transformation(cells, 8, turns, of_latents=True)
    for side in (8, 32):
        x = torch.randn(2, 3, side, side, generator=generator(0, "x"), dtype=torch.float64)
        got = t(x).numpy()
        assert got.shape == (2, 3, side * cells // 8, side * cells // 8)
        for index in np.ndindex(2, 3):
            turned = np.rot90(bilinear(x[index].numpy(), side * cells // 8), -turns)  # from the last axis to the one before
            np.testing.assert_allclose(got[index], turned, rtol=0, atol=1e-12)


def test_draws_are_as_often_as_the_authors_and_depend_on_the_generator_alone():
    drawn = [equivariance.draw(generator(0, "equivariance", step), 32) for step in range(4000)]
    assert drawn[:50] == [equivariance.draw(generator(0, "equivariance", step), 32) for step in range(50)]
    odd = [equivariance.draw(generator(0, "equivariance", step), 7) for step in range(200)]
    assert {made.cells for made in odd if made is not None} == {2, 3, 4, 5, 6}
    with pytest.raises(ValueError, match=r"got \(1, 3, 8, 16\), expected square"):
        Transformation(3, 8, 1, of_latents=True)(torch.zeros(1, 3, 8, 16))
    with pytest.raises(ValueError, match="latents of 1 cells a side have no side"):
        equivariance.draw(generator(0, "equivariance", 0), 1)
    kinds = Counter("plain" if t is None else "latents" if t.of_latents else "images" for t in drawn)
    assert kinds["latents"] / 4000 == pytest.approx(0.5, abs=0.03)
    assert kinds["images"] / 4000 == pytest.approx(0.125, abs=0.02)
    for of_latents, turns in ((True, {1, 2, 3}), (False, {0})):
        mine = [t for t in drawn if t is not None and t.of_latents is of_latents]
        assert {t.cells for t in mine} == set(range(8, 32)) and {t.turns for t in mine} == turns


@pytest.mark.parametrize(
    ("side", "sides"), [(32, range(8, 32)), (16, range(4, 16)), (8, range(2, 8)), (2, range(1, 2)), (1, range(0))]
)
def test_scales_are_whole_cells_from_a_quarter_on(side, sides):
    assert list(AUTHORS.sides(side)) == list(sides)


def test_tokens_follow_the_images_to_a_smaller_grid():
    square = torch.randn(2, 5, 8, 8, generator=generator(0, "tokens"))
    patch = square.flatten(2).transpose(1, 2)
    got = equivariance.tokens_at(patch, 3)
    torch.testing.assert_close(got, equivariance.resized(square, 3).flatten(2).transpose(1, 2))
    assert equivariance.tokens_at(patch, 8) is patch
    nothing = patch[:, :0]
    assert equivariance.tokens_at(nothing, 3) is nothing


def gradients(made, x, transformation):
    batch = made.batch(2)
    (share,) = made.processes.shares(made.spec.batch)
    made.discriminator.requires_grad_(False)
    record, pair = made.gradient(batch, x, made.spec.lambda_g, share, transformation)
    return record, pair, [p.grad for p in made.trained]


@pytest.mark.parametrize("of_latents", [True, False])
def test_the_step_compares_the_transformed_image_with_what_is_decoded_from_transformed_latents(of_latents):
    t = Transformation(5, 8, 3 if of_latents else 0, of_latents)
    made, plain = task(align=None, teacher=None), task(align=None, teacher=None)
    x = models.to_input(made.batch(2).pixels)
    record, (compared, reconstruction), got = gradients(made, x, t)
    assert compared.shape == reconstruction.shape == (4, 3, 20, 20)
    torch.testing.assert_close(compared, t(x))

    mean, logvar = models.moments(plain.vae, x if of_latents else t(x))
    noise = plain.batch(2).noise[..., : mean.shape[2], : mean.shape[3]]
    z = mean + torch.exp(0.5 * logvar) * noise
    decoded = plain.vae.decode(t(z) if of_latents else z).sample
    large = (
        torch.nn.functional.interpolate(decoded, size=(31, 31), mode="bilinear"),
        torch.nn.functional.interpolate(t(x), size=(31, 31), mode="bilinear"),
    )
    plain.discriminator.requires_grad_(False)
    loss = autoencoder_loss(
        t(x), decoded, mean, logvar, z, plain.weights, perceptual=lambda a, b: LPIPS(*large), discriminator=plain.discriminator
    )  # 20 pixels are too few for LPIPS's AlexNet
    torch.testing.assert_close(record["loss"], loss.total.detach())
    for a, b in zip(got, torch.autograd.grad(loss.total, plain.trained), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_every_step_of_an_arm_is_drawn_by_its_seed_and_number_and_the_discriminator_sees_the_same_pair():
    made = task(equivariance=ALWAYS)
    drawn = [made.transformation(step, 8) for step in range(20)]
    assert all(t is not None and t.of_latents for t in drawn) and len({t.cells for t in drawn}) > 3
    assert drawn == [task(equivariance=ALWAYS).transformation(step, 8) for step in range(20)]
    seen = []
    made.discriminator.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[-1]))
    record = made.update(0)
    assert torch.isfinite(record["loss"]) and torch.isfinite(record["discriminator"])
    assert set(seen) == {max(6, 4 * drawn[0].cells)}  # one strided layer takes 6 pixels
    assert task().transformation(0, 8) is None


def test_the_smallest_images_that_each_network_takes():
    made = task(equivariance=ALWAYS)
    smallest = Transformation(2, 8, 1, of_latents=True)
    record, (compared, _), _ = gradients(made, models.to_input(made.batch(2).pixels), smallest)
    assert compared.shape[-1] == 8 and all(torch.isfinite(value) for value in record.values())


@pytest.mark.parametrize(("cells", "sides"), [(None, range(4, 16)), (2, range(4, 16, 2)), (3, range(6, 15, 3))])
def test_scaled_latents_are_whole_tokens(cells, sides):
    side = 15 if cells == 3 else 16
    assert replace(ALWAYS, cells=cells).sides(side) == sides
