"""Eqs. 3 to 5: named terms and their sum, and in every setting the gradient that a scheme of backward seeds gives."""

import ast
import itertools
import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import REPOSITORY
from small import ALIGN, LPIPS, task, tiny

from reals.method import alignment
from reals.method.alignment import AlignWeights
from reals.method.autoencoder_objective import LossWeights, adaptive_weight, autoencoder_loss, gradient_balance
from reals.method.models import autoencoder as models
from reals.method.models.discriminator import patch_gan
from reals.training.batches import rows_of
from reals.training.processes import Processes

TINY = torch.finfo(torch.float32).tiny


def perceptual(a, b):
    """Differentiable and not quadratic in either image."""
    return (torch.tanh(a[..., 1:] - a[..., :-1]) - torch.tanh(b[..., 1:] - b[..., :-1])).square().mean((1, 2, 3))


def teacher(indices, flips, images):
    generator = torch.Generator().manual_seed(1)
    patch, cls = torch.randn(8, 64, 6, generator=generator), torch.randn(8, 6, generator=generator)
    return patch[indices].double(), cls[indices].double()


def made(accumulate: int, **changes):
    """A task whose networks compute in float64."""
    task_ = task(Processes(accumulate=accumulate), lambda_k=1e-2, **changes)
    for network in (task_.vae, task_.align, task_.discriminator):
        if network is not None:
            network.double()
    task_.lpips, task_.teacher = perceptual, teacher
    task_.discriminator.requires_grad_(False)
    return task_


def shares_of(task_):
    """(share, its rows of step 3's batch, its images) of every share."""
    batch = task_.batch(3)
    for share in task_.processes.shares(task_.spec.batch):
        part = rows_of(batch, share.rows)
        yield share, part, models.to_input(part.pixels).double()


def by_seeds(task_, lambda_g: float):
    """The same gradient by another way: z cut from the encoder always, KL and latents' gradient as seeds of the backward pass."""
    spec, a = task_.spec, task_.spec.align
    records = []
    for share, batch, x in shares_of(task_):
        mean, logvar = models.moments(task_.vae, x)
        z = mean + torch.exp(0.5 * logvar) * batch.noise
        latents = z.detach().requires_grad_()
        reconstruction = task_.vae.decode(latents).sample
        pixel = (reconstruction - x).abs().mean() if spec.pixel == "l1" else (reconstruction - x).square().mean()
        terms = {spec.pixel: pixel, "lpips": perceptual(reconstruction, x).mean()}
        weights = {spec.pixel: 1.0, "lpips": spec.lambda_p}
        loss = sum(weights[name] * term for name, term in terms.items())
        if lambda_g > 0:
            terms["gan"], weights["gan"] = -task_.discriminator(reconstruction).mean(), lambda_g
            if spec.gan_weight == "adaptive":
                layer = task_.vae.decoder.conv_out.weight
                one, other = (
                    torch.autograd.grad(share.weight * term, layer, retain_graph=True)[0].norm() for term in (loss, terms["gan"])
                )
                weights["gan"] = lambda_g * min(one / (other + 1e-4), 1e4)
            loss = loss + weights["gan"] * terms["gan"]
        if a is not None:
            aligned = alignment.align_loss(
                task_.align, latents, *teacher(batch.indices, None, None), AlignWeights(a.lambda_1, a.lambda_2, 1.0)
            )
            terms["align"], weights["align"] = aligned.total, a.lambda_a
            if a.balance == "gradient":
                (share.weight * loss).backward()
                (pull,) = torch.autograd.grad(share.weight * aligned.total, latents, retain_graph=True)
                weights["align"] = a.lambda_a * latents.grad.norm() / max(pull.norm(), TINY)
                loss = weights["align"] * aligned.total
            else:
                loss = loss + weights["align"] * aligned.total
        (share.weight * loss).backward()
        terms["kl"], weights["kl"] = models.kl_per_image(mean, logvar).mean(), spec.lambda_k
        seed = torch.full_like(terms["kl"], share.weight * spec.lambda_k)
        torch.autograd.backward([z, terms["kl"]], [latents.grad, seed])
        raw = {name: float(term.detach()) for name, term in terms.items()}
        weighted = {
            f"{name}_weighted": float(torch.as_tensor(weights[name], dtype=torch.float64)) * value for name, value in raw.items()
        }
        records.append({"loss": sum(weighted.values()), **raw, **weighted})
    return records


def by_the_loss(task_, lambda_g: float):
    return [task_.gradient(batch, x, lambda_g, share)[0] for share, batch, x in shares_of(task_)]


NETWORKS = {"both": (True, True), "patch": (True, False), "cls": (False, True), "none": None}


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("networks", NETWORKS)
def test_gradient_and_terms_are_those_of_backward_seeds_in_every_setting(accumulate, networks):
    aligned = NETWORKS[networks]
    for pixel, gan, balance in itertools.product(("mse", "l1"), ("off", "constant", "adaptive"), ("constant", "gradient")):
        align = aligned and replace(ALIGN, balance=balance, lambda_a=0.7, patch=aligned[0], cls=aligned[1])
        changes = {"pixel": pixel, "gan_weight": "adaptive" if gan == "adaptive" else "constant", "align": align}
        lambda_g = 0.0 if gan == "off" else 0.3
        ours, plain = made(accumulate, **changes), made(accumulate, **changes)
        for got, expected in zip(by_the_loss(ours, lambda_g), by_seeds(plain, lambda_g), strict=True):
            assert [name for name in got if "cosine" not in name and "smooth" not in name] == list(expected)
            for name, value in expected.items():
                assert float(got[name]) == pytest.approx(value, rel=1e-12), name
        whole = torch.nn.utils.get_total_norm([p.grad for p in plain.trained])
        for a, b in zip(ours.trained, plain.trained, strict=True):
            # The bias of attention's keys has no gradient but rounding.
            limit = 1e-9 * torch.linalg.vector_norm(b.grad) + 1e-15 * whole
            assert torch.linalg.vector_norm(a.grad - b.grad) <= limit, (pixel, gan, balance)
        assert sum(float(p.grad.abs().sum() > 0) for p in ours.trained) >= 0.9 * len(ours.trained)


def arguments(generator=None):
    generator = generator or torch.Generator().manual_seed(0)
    x, reconstruction = torch.rand((2, 3, 3, 8, 8), generator=generator, dtype=torch.float64) * 2 - 1
    mean, logvar, noise = torch.randn((3, 3, 4, 2, 2), generator=generator, dtype=torch.float64)
    return x, reconstruction, mean, logvar, mean + torch.exp(0.5 * logvar) * noise


def test_the_loss_is_the_sum_of_its_weighted_terms():
    """Each lambda multiplies its own term."""
    x, reconstruction, mean, logvar, z = arguments()
    networks = alignment.AlignNetworks(4, 6, 2, 8, True, True).double()
    features = (torch.randn(3, 4, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64))
    loss = autoencoder_loss(
        x, reconstruction, mean, logvar, z, LossWeights("mse", 2.0, 3.0, 5.0, 7.0),
        perceptual=perceptual, discriminator=lambda images: images.mean((1, 2, 3)), align=networks, teacher=features,
    )  # fmt: skip
    expected = {
        "mse": (1, (x - reconstruction).square().mean()),
        "lpips": (2, perceptual(reconstruction, x).mean()),
        "gan": (3, -reconstruction.mean()),
        "align": (7, alignment.align_loss(networks, z, *features, AlignWeights()).total),
        "kl": (5, 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum() / 3),
    }
    assert list(loss.raw) == list(loss.weighted) == list(expected)
    for name, (factor, term) in expected.items():
        torch.testing.assert_close(loss.raw[name], term)
        torch.testing.assert_close(loss.weighted[name], factor * term)
    torch.testing.assert_close(loss.total, sum(factor * term for factor, term in expected.values()))
    assert set(loss.parts) == {"patch_cosine", "patch_smooth_l1", "cls_cosine", "cls_smooth_l1"}
    assert all(not value.requires_grad for value in loss.record().values())


def test_terms_without_a_network_or_a_weight_take_no_part():
    x, reconstruction, mean, logvar, z = arguments()
    plain = autoencoder_loss(x, reconstruction, mean, logvar, z)
    assert list(plain.raw) == ["mse", "kl"]
    off = autoencoder_loss(x, reconstruction, mean, logvar, z, LossWeights("l1", lambda_p=0.0, lambda_g=0.0),
                           perceptual=perceptual, discriminator=lambda images: images.mean())  # fmt: skip
    assert list(off.raw) == ["l1", "kl"]
    torch.testing.assert_close(off.raw["l1"], F.l1_loss(reconstruction, x))
    with pytest.raises(ValueError, match="no teacher's features"):
        autoencoder_loss(x, reconstruction, mean, logvar, z, align=alignment.AlignNetworks(4, 6, 2, 8, True, True))


def test_the_adaptive_weight_is_vqgans():
    layer = torch.randn(5, 3, requires_grad=True)
    loss, other = (layer * torch.randn(5, 3)).sum(), 7 * (layer * torch.randn(5, 3)).sum()
    one = Processes().average
    a, b = (torch.autograd.grad(t, layer, retain_graph=True)[0].norm() for t in (loss, other))
    torch.testing.assert_close(adaptive_weight(loss, other, layer, one), a / (b + 1e-4))
    torch.testing.assert_close(adaptive_weight(loss, 10 * other, layer), a / (10 * b + 1e-4))
    assert adaptive_weight(loss, 0 * other, layer, one) == 1e4


def test_the_gradient_balance_is_the_ratio_of_the_norms():
    assert gradient_balance(torch.full((2, 2), 3.0), torch.full((2, 2), -0.5)) == 6
    assert gradient_balance(torch.ones(3), torch.zeros(3)) == 1e4
    assert gradient_balance(torch.zeros(3), torch.zeros(3)) == 0


def test_half_precision_is_the_networks_not_the_losss():
    half = [value.bfloat16() for value in arguments()]
    loss = alignment.feature_loss(
        torch.full((4, 6), 3e20, dtype=torch.bfloat16), half[2].flatten()[:24].view(4, 6), AlignWeights()
    )
    assert loss[1].dtype == torch.float32 and torch.isfinite(loss[1])


def test_the_manuals_example_runs():
    """On the smallest networks, in the names that the manual gives them."""
    text = (REPOSITORY / "docs/autoencoder.md").read_text()
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "autoencoder_loss(" in block)
    vae, discriminator = tiny().train(), patch_gan(channels=4, layers=1)
    x, patches, cls = torch.rand(2, 3, 32, 32) * 2 - 1, torch.randn(2, 64, 1024), torch.randn(2, 1024)
    names = {"vae": vae, "lpips": LPIPS, "discriminator": discriminator, "x": x, "patches": patches, "cls": cls}
    exec(example, names)
    assert list(names["loss"].raw) == ["mse", "lpips", "gan", "align", "kl"]
    trained = [*vae.parameters(), *names["align"].parameters()]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)
    assert len(ast.parse(example).body) <= 10


def test_half_precision_is_widened_and_what_does_not_fit_is_refused():
    torch.manual_seed(0)
    x, mean = torch.rand(2, 3, 8, 8), torch.randn(2, 4, 2, 2)
    exact = autoencoder_loss(x, 1 - x, mean, mean, mean)
    half = autoencoder_loss(x.bfloat16(), (1 - x).bfloat16(), mean.bfloat16(), mean.bfloat16(), mean.bfloat16())
    assert half.total.dtype == torch.float32
    torch.testing.assert_close(half.total, exact.total, rtol=2e-2, atol=0)
    with pytest.raises(ValueError, match=r"the reconstruction is \(1, 3, 8, 8\), the images \(2, 3, 8, 8\)"):
        autoencoder_loss(x, x[:1], mean, mean, mean)
    with pytest.raises(ValueError, match="pixel 'L1': expected mse or l1"):
        LossWeights(pixel="L1")
