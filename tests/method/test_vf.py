"""VA-VAE's losses beside numpy, token by token; its linear map; its adaptive weight in the step."""

import numpy as np
import pytest
import torch
from small import VF, task

from reals.method import alignment, vf
from reals.method.autoencoder_objective import LossWeights, autoencoder_loss
from reals.method.models import autoencoder as models
from reals.rng import generator


def cosine(a, b) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def by_tokens(projected: np.ndarray, teacher: np.ndarray, m1: float, m2: float) -> tuple[float, float]:
    """Both losses of [B, N, D] by loops, as the paper writes them."""
    images, tokens, _ = projected.shape
    near = [max(0.0, 1 - m1 - cosine(projected[b, i], teacher[b, i])) for b in range(images) for i in range(tokens)]
    alike = [
        max(0.0, abs(cosine(projected[b, i], projected[b, j]) - cosine(teacher[b, i], teacher[b, j])) - m2)
        for b in range(images)
        for i in range(tokens)
        for j in range(tokens)
    ]
    return float(np.mean(near)), float(np.mean(alike))


@pytest.mark.parametrize(("m1", "m2"), [(0.5, 0.25), (0.0, 0.0), (0.9, 0.6)])
def test_both_losses_are_those_of_the_paper_token_by_token(m1, m2):
    draw = generator(0, "vf")
    z, teacher = torch.randn(2, 5, 3, 3, generator=draw, dtype=torch.float64), torch.randn(2, 9, 7, generator=draw).double()
    networks = alignment.AlignNetworks(5, 7, 1, 0, patch=True, cls=False, bias=False).double()
    alignment.initialise(networks, draw)
    weight = networks.patch[0].weight.detach().numpy()
    projected = z.flatten(2).transpose(1, 2).numpy() @ weight.T  # row by row over the grid
    near, alike = by_tokens(projected, teacher.numpy(), m1, m2)
    loss = vf.vf_loss(networks, z, teacher, vf.Margins(m1, m2))
    assert near > 0 and alike > 0
    assert float(loss.parts["patch_cosine"]) == pytest.approx(near, rel=1e-12)
    assert float(loss.parts["patch_distance"]) == pytest.approx(alike, rel=1e-12)
    assert float(loss.total.detach()) == pytest.approx(near + alike, rel=1e-12)


def test_within_the_margins_there_is_no_loss_and_no_gradient():
    teacher = torch.randn(1, 6, 8, generator=generator(0, "teacher"))
    projected = (3 * teacher + 0.01).requires_grad_()  # lengths do not matter
    total = vf.marginal_cosine(projected, teacher, 0.5) + vf.marginal_distance(projected, teacher, 0.25)
    assert float(total.detach()) == 0 and not torch.autograd.grad(total, projected)[0].any()


def test_half_precision_features_are_compared_in_float32():
    tokens = torch.full((1, 4, 6), 300.0, dtype=torch.float16)  # whose squares overflow
    for loss in (vf.marginal_cosine(tokens, tokens, 0.0), vf.marginal_distance(tokens, tokens, 0.0)):
        assert loss.dtype == torch.float32 and float(loss) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("networks", [(5, 7, 1, 0, True, False), (5, 6, 1, 0, True, False), (5, 7, 1, 0, False, True)])
def test_another_grid_or_width_is_refused(networks):
    with pytest.raises(ValueError, match=r"vf: teacher patch features are \(2, 16, 7\)"):
        vf.vf_loss(alignment.AlignNetworks(*networks), torch.randn(2, 5, 3, 3), torch.randn(2, 16, 7))


def test_the_linear_map_has_no_bias_and_comes_back_from_its_folder(tmp_path):
    networks = alignment.AlignNetworks(4, 6, 1, 0, patch=True, cls=False, bias=False)
    alignment.initialise(networks, generator(0, "align"))
    assert [name for name, _ in networks.named_parameters()] == ["patch.0.weight"]
    models.save_align(networks, tmp_path)
    again = models.load_align(tmp_path)
    assert again.settings == networks.settings and torch.equal(again.patch[0].weight, networks.patch[0].weight)
    assert "bias" not in alignment.AlignNetworks(4, 6, 2, 8, patch=True, cls=True).settings  # as in older folders


def test_it_takes_the_place_of_l_align_and_is_weighed_beside_the_reconstruction_alone():
    draw = generator(0, "loss")
    x, reconstruction = torch.rand(2, 3, 3, 8, 8, generator=draw)
    mean, logvar = torch.randn(2, 3, 4, 2, 2, generator=draw)
    patch, seen = torch.randn(3, 4, 6, generator=draw), []
    networks = alignment.AlignNetworks(4, 6, 1, 0, patch=True, cls=False, bias=False)

    def balance(loss, other):
        seen.append((float(loss), float(other.detach())))
        return 5.0

    loss = autoencoder_loss(
        x, reconstruction, mean, logvar, mean, LossWeights(lambda_p=0.0, lambda_g=2.0, lambda_a=0.1, align=vf.Margins()),
        discriminator=lambda images: images.mean((1, 2, 3)), align=networks, teacher=(patch, patch[:, 0]), align_balance=balance,
    )  # fmt: skip
    expected = vf.vf_loss(networks, mean, patch)
    assert seen == [(float(loss.raw["mse"]), float(expected.total.detach()))]  # and not with the GAN's loss
    torch.testing.assert_close(loss.raw["align"], expected.total)
    torch.testing.assert_close(loss.weighted["align"], 0.1 * 5.0 * expected.total)


def test_the_step_weighs_it_by_gradients_at_the_encoders_last_layer():
    made = task(align=VF, lambda_k=0.0)
    batch = made.batch(2)
    (share,) = made.processes.shares(made.spec.batch)
    x = models.to_input(batch.pixels)
    made.discriminator.requires_grad_(False)
    record, _ = made.gradient(batch, x, 0.1, share)

    mean, logvar = models.moments(made.vae, x)
    z = mean + torch.exp(0.5 * logvar) * batch.noise
    reconstruction = made.vae.decode(z).sample
    restored = (reconstruction - x).square().mean() + made.lpips(reconstruction, x).mean()
    aligned = vf.vf_loss(made.align, z, made.teacher(batch.indices, None, None)[0]).total
    layer = made.vae.encoder.conv_out.weight
    a, b = (torch.autograd.grad(term, layer, retain_graph=True)[0].norm() for term in (restored, aligned))
    assert b > 0
    torch.testing.assert_close(record["align_weighted"] / record["align"], 0.1 * a / (b + 1e-4), rtol=1e-4, atol=0)
