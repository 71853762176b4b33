import math

import pytest
import torch

from reals import rng
from reals.experiment.sampler_table import DIFFUSION_FORMS
from reals.method import paths

ALL = list(paths.PATHS.values())
INNER = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=rng.generator(seed, "draw"), dtype=torch.float64)


@pytest.mark.parametrize("path", ALL)
def test_derivatives_equal_autograd(path):
    t = INNER.clone().requires_grad_()
    p = path(t)
    for value, derivative in ((p.alpha, p.d_alpha), (p.sigma, p.d_sigma)):
        (expected,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
        torch.testing.assert_close(derivative, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", ALL)
def test_paths_run_from_noise_to_data(path):
    start, end = path(torch.tensor(0.0, dtype=torch.float64)), path(torch.tensor(1.0, dtype=torch.float64))
    assert abs(start.alpha) < 0.01
    assert start.sigma == pytest.approx(1, abs=1e-4)
    assert end.alpha == pytest.approx(1)
    assert end.sigma == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("path", [paths.gvp, paths.vp])
def test_variance_preserving_paths(path):
    p = path(INNER)
    torch.testing.assert_close(p.alpha**2 + p.sigma**2, torch.ones_like(INNER))


def test_vp_is_the_continuous_limit_of_the_ddpm_schedule():
    from reals.method import ddpm

    alpha_bar = ddpm.linear_schedule(1000).alpha_bar
    t = 1 - torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(paths.vp(t).alpha[:500] ** 2, alpha_bar[:500], rtol=1e-2, atol=0)


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize("t", [0.3, [0.1, 0.4, 0.6, 0.9]])
def test_conversions_invert_each_other(path, t):
    t = torch.tensor(t, dtype=torch.float64)
    data, noise = draw(4, 2, 3, 3), draw(4, 2, 3, 3, seed=1)
    x, v = paths.interpolate(path, data, noise, t)
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(paths.noise_from_velocity(path, v, x, t), noise, **close)
    torch.testing.assert_close(paths.data_from_velocity(path, v, x, t), data, **close)
    torch.testing.assert_close(paths.velocity_from_noise(path, noise, x, t), v, **close)
    score = paths.score_from_velocity(path, v, x, t)
    torch.testing.assert_close(paths.noise_from_score(path, score, x, t), noise, **close)
    torch.testing.assert_close(paths.velocity_from_score(path, score, x, t), v, **close)


@pytest.mark.parametrize("path", ALL)
def test_score_of_gaussian_data(path):
    """Data N(m, s^2): x_t is N(alpha m, alpha^2 s^2 + sigma^2), and the velocity field has a closed form."""
    m, s = 0.7, 1.9
    x = draw(len(INNER), 5)
    p = paths.along(path, INNER, x)
    mean, variance = p.alpha * m, p.alpha**2 * s**2 + p.sigma**2
    v = p.d_alpha * m + (p.alpha * p.d_alpha * s**2 + p.sigma * p.d_sigma) / variance * (x - mean)
    score = -(x - mean) / variance
    torch.testing.assert_close(paths.score_from_velocity(path, v, x, INNER), score, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(paths.velocity_from_score(path, score, x, INNER), v, rtol=1e-9, atol=1e-9)
    posterior = m + p.alpha * s**2 / variance * (x - mean)
    torch.testing.assert_close(paths.data_from_velocity(path, v, x, INNER), posterior, rtol=1e-9, atol=1e-9)


def test_velocity_is_the_time_derivative_of_the_interpolant():
    data, noise, t = draw(1, 4), draw(1, 4, seed=1), torch.tensor(0.4, dtype=torch.float64)
    for path in ALL:
        ahead, behind = (paths.interpolate(path, data, noise, t + h)[0] for h in (1e-6, -1e-6))
        _, v = paths.interpolate(path, data, noise, t)
        torch.testing.assert_close(v, (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-6)


def test_linear_sigma_drift_is_compact():
    """v + (1 - t) score = (1 + t) v - x on the linear path."""
    x, v = draw(2, 3), draw(2, 3, seed=1)
    for t in torch.tensor([0.0, 0.3, 0.9, 0.96], dtype=torch.float64):
        d = paths.diffusion(paths.linear, "sigma", 1.0, t)
        drift = v + d * paths.score_from_velocity(paths.linear, v, x, t)
        torch.testing.assert_close(drift, (1 + t) * v - x, rtol=1e-12, atol=1e-12)


def test_diffusion_closed_forms():
    t = INNER
    forms = {
        "constant": torch.full_like(t, 0.7),
        "SBDM": 0.7 * (1 - t) / t,
        "sigma": 0.7 * (1 - t),
        "linear": 0.7 * (1 - t),
        "decreasing": 0.25 * (0.7 * torch.cos(math.pi * t) + 1) ** 2,
        "increasing-decreasing": 0.7 * torch.sin(math.pi * t) ** 2,
    }
    assert set(forms) == set(DIFFUSION_FORMS)
    for form, expected in forms.items():
        torch.testing.assert_close(paths.diffusion(paths.linear, form, 0.7, t), expected)
    half_beta = 0.05 + (1 - t) * 9.95
    torch.testing.assert_close(paths.diffusion(paths.vp, "SBDM", 1.0, t), half_beta)
    torch.testing.assert_close(paths.diffusion(paths.gvp, "sigma", 1.0, t), torch.cos(math.pi * t / 2))


def test_unknown_diffusion_form_is_refused():
    with pytest.raises(ValueError, match="got 'sbdm', expected one of sigma, linear, SBDM"):
        paths.diffusion(paths.linear, "sbdm", 1.0, INNER)


def test_float32_stays_float32():
    x, t = draw(2, 3).float(), torch.tensor(0.5, dtype=torch.float64)
    for path in ALL:
        assert paths.score_from_velocity(path, x, x, t).dtype == torch.float32
