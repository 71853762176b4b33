import math

import pytest
import torch

from reals import rng
from reals.method import ddpm

CHAIN = ddpm.linear_schedule()


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=rng.generator(seed, "draw"), dtype=torch.float64)


def test_alpha_bar_of_the_training_chain():
    assert CHAIN.alpha_bar[0].item() == pytest.approx(0.9999, rel=1e-12)
    assert CHAIN.alpha_bar[499].item() == pytest.approx(0.0785872, rel=1e-6)
    assert CHAIN.alpha_bar[999].item() == pytest.approx(4.0358e-5, rel=1e-4)
    assert (CHAIN.alpha_bar.diff() < 0).all()


def test_respacing_to_250():
    kept = ddpm.respaced_timesteps(1000, 250)
    assert kept[:4] == [0, 4, 8, 12]
    assert kept[-4:] == [987, 991, 995, 999]
    assert len(set(kept)) == 250
    short = ddpm.respace(CHAIN, 250)
    assert short.timesteps.tolist() == kept
    assert [short.beta[i].item() for i in (0, 1, 124, 249)] == pytest.approx([1e-4, 5.99066e-4, 0.0392888, 0.0775193], rel=1e-5)
    assert short.posterior_variance[1].item() == pytest.approx(8.57025e-5, rel=1e-5)
    torch.testing.assert_close(short.alpha_bar, CHAIN.alpha_bar[kept], rtol=1e-12, atol=0)


def test_respacing_to_all_steps_changes_nothing():
    full = ddpm.respace(CHAIN, 1000)
    for name in ("timesteps", "beta", "alpha_bar", "posterior_variance", "posterior_data", "posterior_noisy"):
        torch.testing.assert_close(getattr(full, name), getattr(CHAIN, name), rtol=1e-10, atol=1e-16)


@pytest.mark.parametrize("count", [1, 1001])
def test_impossible_respacing_is_refused(count):
    with pytest.raises(ValueError, match=rf"got {count}, expected 2\.\.1000"):
        ddpm.respace(CHAIN, count)


def test_too_short_a_chain_is_refused():
    with pytest.raises(ValueError, match="got 20, expected more than 20"):
        ddpm.linear_schedule(20)


def test_noise_added_is_noise_found():
    x, noise, t = draw(5, 4, 2, 2), draw(5, 4, 2, 2, seed=1), torch.tensor([0, 1, 500, 998, 999])
    x_t = ddpm.add_noise(CHAIN, x, t, noise)
    torch.testing.assert_close(ddpm.data_from_noise(CHAIN, noise, x_t, t), x, rtol=1e-10, atol=1e-10)


def test_one_step_for_all_equals_a_step_for_each():
    x, noise = draw(3, 4, 2, 2), draw(3, 4, 2, 2, seed=1)
    each = torch.tensor([17, 17, 17])
    assert torch.equal(ddpm.add_noise(CHAIN, x, 17, noise), ddpm.add_noise(CHAIN, x, each, noise))


def test_posterior_follows_from_bayes():
    """q(x_{t-1} | x_t, x_0) is q(x_t | x_{t-1}) q(x_{t-1} | x_0) renormalised: precisions add up."""
    for schedule in (CHAIN, ddpm.respace(CHAIN, 50)):
        for t in (1, 20, 49):
            x, x_t = draw(1, 1, 2, 2), draw(1, 1, 2, 2, seed=1)
            alpha, beta, previous = 1 - schedule.beta[t], schedule.beta[t], schedule.alpha_bar_previous[t]
            precision = alpha / beta + 1 / (1 - previous)
            expected = (alpha.sqrt() / beta * x_t + previous.sqrt() / (1 - previous) * x) / precision
            mean, log_variance = ddpm.posterior(schedule, x, x_t, t)
            torch.testing.assert_close(mean, expected, rtol=1e-10, atol=1e-10)
            assert log_variance.item() == pytest.approx(-math.log(precision), rel=1e-9)


def test_first_posterior_borrows_its_variance():
    assert CHAIN.posterior_variance[0] == 0
    assert CHAIN.posterior_log_variance[0] == CHAIN.posterior_log_variance[1]


def test_learned_variance_runs_from_posterior_to_beta():
    v = torch.tensor([-1.0, 1.0, 0.0, 3.0], dtype=torch.float64).view(1, 4, 1, 1)
    low, high = CHAIN.posterior_log_variance[300], CHAIN.beta[300].log()
    expected = torch.stack([low, high, (low + high) / 2, 2 * high - low])
    torch.testing.assert_close(ddpm.learned_log_variance(CHAIN, v, 300).flatten(), expected)


def test_reverse_step_equals_diffusers():
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(beta_start=1e-4, beta_end=0.02, variance_type="learned_range", clip_sample=False)
    kept = ddpm.respaced_timesteps(1000, 250)
    theirs.set_timesteps(timesteps=kept[::-1])
    schedule = ddpm.respace(CHAIN, 250)
    x_t, output = draw(2, 4, 3, 3).float(), draw(2, 8, 3, 3, seed=1).float()
    for k in (1, 60, 249):
        expected = theirs.step(output, kept[k], x_t, generator=rng.generator(0, "step")).prev_sample
        noise = torch.randn(x_t.shape, generator=rng.generator(0, "step"))
        mean, log_variance = ddpm.reverse_step(schedule, output, x_t, k)
        torch.testing.assert_close(mean + torch.exp(0.5 * log_variance) * noise, expected, rtol=1e-4, atol=1e-4)


def test_ddim_with_eta_one_is_the_posterior():
    """Song et al. section 4.1: eta = 1 has DDPM's posterior mean and variance."""
    x_t, noise = draw(2, 4, 2, 2), draw(2, 4, 2, 2, seed=1)
    for k in (1, 30, 99):
        schedule = ddpm.respace(CHAIN, 100)
        mean, log_variance = ddpm.posterior(schedule, ddpm.data_from_noise(schedule, noise, x_t, k), x_t, k)
        fresh = torch.ones_like(x_t)
        expected = mean + torch.exp(0.5 * log_variance)
        torch.testing.assert_close(ddpm.ddim_step(schedule, noise, x_t, k, 1.0, fresh), expected)


def test_gaussian_kl_equals_torch():
    from torch.distributions import Normal, kl_divergence

    a, b, c, d = (draw(50, seed=seed) for seed in range(4))
    expected = kl_divergence(Normal(a, torch.exp(0.5 * b)), Normal(c, torch.exp(0.5 * d)))
    torch.testing.assert_close(ddpm.gaussian_kl(a, b, c, d), expected)


def test_discretised_probabilities_add_up_to_one():
    pixels = torch.linspace(-1, 1, 256, dtype=torch.float64)
    for mean, std in ((0.0, 0.3), (0.9, 0.05), (-0.2, 1.5)):
        shape = torch.full_like(pixels, mean), torch.full_like(pixels, math.log(std))
        assert torch.exp(-ddpm.discretised_gaussian_nll(pixels, *shape)).sum().item() == pytest.approx(1, abs=1e-6)


def test_true_noise_and_posterior_variance_make_the_bound_vanish():
    x, noise = draw(4, 4, 3, 3), draw(4, 4, 3, 3, seed=1)
    t = torch.tensor([1, 10, 500, 999])
    output = torch.cat([noise, -torch.ones_like(noise)], dim=1)
    x_t = ddpm.add_noise(CHAIN, x, t, noise)
    bound = ddpm.variational_bound(CHAIN, output, x, x_t, t)
    assert bound.abs().max() < 1e-12
    worse = ddpm.variational_bound(CHAIN, output + 0.1, x, x_t, t)
    assert (worse > 1e-6).all()


def test_bound_at_the_first_step_is_the_likelihood_in_bits():
    x, noise, t = 0.2 * draw(1, 4, 3, 3), draw(1, 4, 3, 3, seed=1), torch.tensor([0])
    output = torch.cat([noise, -torch.ones_like(noise)], dim=1)
    x_t = ddpm.add_noise(CHAIN, x, t, noise)
    # With the true noise the mean is x itself, so every entry has the mass of one centred bin.
    std = torch.exp(0.5 * CHAIN.posterior_log_variance[0]).item()
    u = 1 / 255 / std
    mass = math.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3))
    bound = ddpm.variational_bound(CHAIN, output, x, x_t, t)
    assert bound.item() == pytest.approx(-math.log2(mass), rel=1e-9)


def test_network_without_variance_is_refused():
    with pytest.raises(ValueError, match="got 4 output channels, expected 8"):
        ddpm.split(draw(1, 4, 2, 2), draw(1, 4, 2, 2))


def test_schedule_moves_as_a_whole():
    moved = CHAIN.to("meta")
    assert moved.beta.device.type == moved.timesteps.device.type == "meta"
