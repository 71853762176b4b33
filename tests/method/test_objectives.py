import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reals import rng
from reals.method import ddpm, objectives, paths
from reals.method.models.transformer import Transformer, TransformerConfig, initialise

CHAIN = ddpm.linear_schedule()
SIZES = {
    "width": 32,
    "depth": 3,
    "heads": 2,
    "patch": 2,
    "latent_channels": 4,
    "latent_size": 8,
    "classes": 10,
}


def network(*, learn_sigma: bool, repa: bool = False, perturbed: bool = True) -> Transformer:
    projector = {"projector_depth": 2, "projector_dim": 12, "projector_hidden": 16} if repa else {}
    model, generator = (
        Transformer(TransformerConfig(**SIZES, learn_sigma=learn_sigma, **projector)),
        rng.generator(0, "w"),
    )
    initialise(model, generator)
    if perturbed:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.double()


def batch(size: int = 6):
    generator = rng.generator(0, "batch")
    x, noise = torch.randn((2, size, 4, 8, 8), generator=generator, dtype=torch.float64)
    t = torch.rand(size, generator=generator, dtype=torch.float64)
    tokens = torch.randn((size, 16, 12), generator=generator, dtype=torch.float64)
    return x, torch.arange(size), t, noise, tokens


def test_label_dropout_rate():
    y, null = torch.arange(20_000) % 10, 10
    uniform = torch.rand(20_000, generator=rng.generator(0, "labels"))
    dropped = objectives.drop_labels(y, uniform, 0.1, null)
    rate, deviation = (dropped == null).double().mean().item(), math.sqrt(0.1 * 0.9 / 20_000)
    assert abs(rate - 0.1) < 3 * deviation
    assert torch.equal(dropped[dropped != null], y[dropped != null])
    assert torch.equal(objectives.drop_labels(y, uniform, 0.0, null), y)
    assert dropped.dtype == torch.int64


class PointVelocity(nn.Module):
    """The velocity field when the data is one point: (x - x_t) / (1 - t) on the linear path."""

    def __init__(self, x):
        super().__init__()
        self.x = x

    def forward(self, x_t, t, y):
        return (self.x - x_t) / (1 - t).view(-1, 1, 1, 1)


def test_flow_loss_of_the_true_velocity_is_zero():
    x, y, t, noise, _ = batch()
    assert objectives.flow_loss(PointVelocity(x), x, y, t, noise).total < 1e-20
    assert objectives.flow_loss(PointVelocity(x + 0.1), x, y, t, noise).total > 1e-3


@pytest.mark.parametrize("path", paths.PATHS.values())
def test_flow_loss_of_a_fresh_network_is_the_mean_square_of_the_target(path):
    x, y, t, noise, _ = batch()
    _, velocity = paths.interpolate(path, x, noise, t * paths.last_training_time(path))
    losses = objectives.flow_loss(network(learn_sigma=False, perturbed=False), x, y, t, noise, path)
    assert losses.total.item() == pytest.approx(velocity.square().mean().item(), rel=1e-12)


def test_training_times_end_where_the_paths_velocity_is_finite():
    x, y, _, noise, _ = batch()
    seen = []

    def model(x_t, t, y):
        seen.append(t)
        return torch.zeros_like(x_t)

    losses = [objectives.flow_loss(model, x, y, torch.ones(6, dtype=torch.float64), noise, path) for path in paths.PATHS.values()]
    assert all(torch.isfinite(loss.total) for loss in losses)
    assert [float(t[0]) for t in seen] == [1.0, 1.0, 1 - 1e-5]


def test_flow_loss_does_not_train_the_variance_channels():
    model = network(learn_sigma=True)
    objectives.flow_loss(model, *batch()[:4]).total.backward()
    # Output features are ordered (row, column, channel); channels 4..7 are the variance.
    gradient = model.final_layer.linear.weight.grad.view(4, 8, -1)
    assert not gradient[:, 4:].any()
    assert gradient[:, :4].any()


def test_flow_loss_is_the_same_with_or_without_variance_channels():
    wide, narrow = network(learn_sigma=True), network(learn_sigma=False)
    state = wide.state_dict()
    for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
        rows = state[name]
        state[name] = rows.view(4, 8, *rows.shape[1:])[:, :4].flatten(0, 1)
    narrow.load_state_dict(state)
    assert torch.allclose(*(objectives.flow_loss(model, *batch()[:4]).total for model in (wide, narrow)), rtol=1e-12)


def test_ddpm_loss_of_a_fresh_network():
    """Zero output: the error is the noise's power, and the variance the geometric mean of its two ends."""
    x, y, _, noise, _ = batch(3)
    t = torch.tensor([3, 300, 999])
    losses = objectives.ddpm_loss(network(learn_sigma=True, perturbed=False), CHAIN, x, y, t, noise)
    x_t = ddpm.add_noise(CHAIN, x, t, noise)
    true_mean, low = ddpm.posterior(CHAIN, x, x_t, t)
    mean = ddpm.posterior(CHAIN, x_t / CHAIN.alpha_bar[t].sqrt().view(-1, 1, 1, 1), x_t, t)[0]
    middle = (low + CHAIN.beta[t].log().view(-1, 1, 1, 1)) / 2
    vb = ddpm.gaussian_kl(true_mean, low, mean, middle).mean() / math.log(2)
    assert losses.parts["mse"].item() == pytest.approx(noise.square().mean().item(), rel=1e-12)
    assert losses.parts["vb"].item() == pytest.approx(vb.item(), rel=1e-9)


def test_bound_does_not_train_the_noise_channels():
    model = network(learn_sigma=True)
    x, y, _, noise, _ = batch(4)
    t = torch.tensor([0, 1, 500, 999])
    objectives.ddpm_loss(model, CHAIN, x, y, t, noise).total.backward()
    gradient = model.final_layer.linear.weight.grad.view(4, 8, -1).clone()
    model.zero_grad()
    x_t = ddpm.add_noise(CHAIN, x, t, noise)
    F.mse_loss(model(x_t, t, y)[:, :4], noise).backward()
    noise_only = model.final_layer.linear.weight.grad.view(4, 8, -1)
    torch.testing.assert_close(gradient[:, :4], noise_only[:, :4], rtol=1e-12, atol=1e-15)
    assert gradient[:, 4:].any()
    assert not noise_only[:, 4:].any()


def test_ddpm_network_is_fed_the_training_steps():
    """On a respaced chain the times are indices into it, the network sees the original steps."""
    fed = []

    class Fed(nn.Module):
        def forward(self, x, t, y):
            fed.append(t)
            return torch.zeros(len(x), 8, 8, 8, dtype=x.dtype)

    x, y, _, noise, _ = batch(2)
    objectives.ddpm_loss(Fed(), ddpm.respace(CHAIN, 250), x, y, torch.tensor([1, 249]), noise)
    assert fed[0].tolist() == [4, 999]


def test_ddpm_loss_needs_variance_channels():
    x, y, _, noise, _ = batch(2)
    with pytest.raises(ValueError, match="set learn_sigma"):
        objectives.ddpm_loss(network(learn_sigma=False), CHAIN, x, y, torch.tensor([1, 2]), noise)


def test_projection_loss_is_minus_the_cosine():
    tokens = batch()[4]
    other = torch.randn(tokens.shape, generator=rng.generator(0, "other"), dtype=torch.float64)
    expected = -F.cosine_similarity(tokens, other, dim=-1).mean()
    loss = objectives.projection_loss(tokens, other)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(objectives.projection_loss(3 * tokens, 0.1 * other), loss, rtol=1e-12, atol=1e-12)
    assert objectives.projection_loss(tokens, 5 * tokens).item() == pytest.approx(-1)
    assert objectives.projection_loss(tokens, -tokens).item() == pytest.approx(1)


def test_projection_loss_survives_half_precision():
    large = torch.full((1, 2, 1024), 300.0, dtype=torch.float16)
    assert objectives.projection_loss(large, large).item() == pytest.approx(-1, abs=1e-6)


def test_projection_loss_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"got \(2, 16, 8\) from the teacher, expected \(2, 16, 4\)"):
        objectives.projection_loss(torch.zeros(2, 16, 4), torch.zeros(2, 16, 8))


@pytest.mark.parametrize("coefficient", [0.0, 0.5, 2.0])
def test_repa_total_is_the_weighted_sum(coefficient):
    model = network(learn_sigma=False, repa=True)
    x, y, t, noise, tokens = batch()
    losses = objectives.repa_loss(model, x, y, t, noise, tokens, coefficient)
    flow = objectives.flow_loss(model, x, y, t, noise)
    assert losses.parts["velocity"].item() == pytest.approx(flow.total.item(), rel=1e-12)
    expected = losses.parts["velocity"] + coefficient * losses.parts["projection"]
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-12)


def test_repa_loss_in_repa_time():
    """REPA: x_tau = (1 - tau) x + tau eps with target eps - x; its network is ours at 1 - tau, negated."""
    model = network(learn_sigma=False, repa=True)
    x, y, t, noise, tokens = batch()
    tau = (1 - t).view(-1, 1, 1, 1)
    output, projected = model.forward_features((1 - tau) * x + tau * noise, t, y)
    denoise = F.mse_loss(-output, noise - x)
    cosine = F.cosine_similarity(projected, tokens, dim=-1).mean()
    losses = objectives.repa_loss(model, x, y, t, noise, tokens)
    assert losses.total.item() == pytest.approx((denoise - 0.5 * cosine).item(), rel=1e-12)


def test_projection_trains_the_projector_and_the_blocks_below_it():
    model = network(learn_sigma=False, repa=True)
    x, y, t, noise, tokens = batch()
    with_projection = objectives.repa_loss(model, x, y, t, noise, tokens, 1.0).total
    without = objectives.flow_loss(model, x, y, t, noise).total
    names, parameters = zip(*[(n, p) for n, p in model.named_parameters() if p.requires_grad], strict=True)
    gradients = torch.autograd.grad(with_projection - without, parameters, allow_unused=True)
    touched = {
        name.rsplit(".", 2)[0] if "projectors" in name else ".".join(name.split(".")[:2])
        for name, gradient in zip(names, gradients, strict=True)
        if gradient is not None and gradient.abs().max() > 1e-12
    }
    assert {"blocks.0", "blocks.1", "projectors.0"} <= touched
    assert "blocks.2" not in touched
    assert "final_layer.linear" not in touched


@pytest.mark.parametrize("kind", ["flow", "ddpm", "repa"])
def test_parts_are_detached_and_name_the_terms(kind):
    x, y, t, noise, tokens = batch()
    if kind == "flow":
        losses, weights = objectives.flow_loss(network(learn_sigma=True), x, y, t, noise), {"velocity": 1}
    elif kind == "ddpm":
        steps = torch.arange(6) * 150
        losses = objectives.ddpm_loss(network(learn_sigma=True), CHAIN, x, y, steps, noise)
        weights = {"mse": 1, "vb": 1}
    else:
        losses = objectives.repa_loss(network(learn_sigma=False, repa=True), x, y, t, noise, tokens)
        weights = {"velocity": 1, "projection": 0.5}
    assert set(losses.parts) == set(weights)
    assert not any(part.requires_grad for part in losses.parts.values())
    total = sum(weight * losses.parts[name] for name, weight in weights.items())
    assert losses.total.requires_grad
    assert losses.total.item() == pytest.approx(total.item(), rel=1e-12)


@pytest.mark.parametrize("kind", ["flow", "ddpm", "repa"])
def test_mixed_precision_losses_are_finite_and_float32(kind):
    x, y, t, noise, tokens = batch()
    x, t, noise, tokens = x.float(), t.float(), noise.float(), tokens.float()
    model = network(learn_sigma=kind == "ddpm", repa=kind == "repa").float()

    def loss():
        if kind == "flow":
            return objectives.flow_loss(model, x, y, t, noise).total
        if kind == "ddpm":
            return objectives.ddpm_loss(model, CHAIN, x, y, torch.arange(6) * 150, noise).total
        return objectives.repa_loss(model, x, y, t, noise, tokens).total

    with torch.autocast("cpu", torch.bfloat16):
        mixed = loss()
    assert mixed.dtype == torch.float32
    assert mixed.item() == pytest.approx(loss().item(), rel=0.03)


@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 21, 9, 9)])
def test_the_dense_cross_entropy_is_torch_s_to_the_bit(shape):
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=draw)
    classes = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=draw)
    classes[0, 0] = 255
    for reduction in ("mean", "sum"):
        found = []
        for loss in (objectives.dense_cross_entropy, F.cross_entropy):
            x = logits.clone().requires_grad_()
            value = loss(x, classes, ignore_index=255, reduction=reduction)
            value.backward()
            found.append((value.detach(), x.grad))
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))
