"""Interpolants x_t = alpha(t) x + sigma(t) eps from noise (t = 0) to data (t = 1), and conversions.

Time runs as in SiT (Ma et al. 2024). REPA and Stable-Diffusion-3-style code use tau = 1 - t; there the
velocity has the opposite sign and everything else is the same.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from reals.experiment.sampler_table import DIFFUSION_FORMS, VP_END, PathName

VP_BETA_MIN = 0.1
VP_BETA_MAX = 20.0


class Coefficients(NamedTuple):
    """alpha, sigma and their time derivatives, each of the shape of t."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor


Path = Callable[[Tensor], Coefficients]


def linear(t: Tensor) -> Coefficients:
    """alpha = t, sigma = 1 - t: the path of the paper and of SiT's published models."""
    one = torch.ones_like(t)
    return Coefficients(t, 1 - t, one, -one)


def gvp(t: Tensor) -> Coefficients:
    """alpha = sin(pi t / 2), sigma = cos(pi t / 2): SiT's generalised variance-preserving path."""
    angle = t * (math.pi / 2)
    alpha, sigma = torch.sin(angle), torch.cos(angle)
    return Coefficients(alpha, sigma, sigma * (math.pi / 2), -alpha * (math.pi / 2))


def vp(t: Tensor) -> Coefficients:
    """The variance-preserving path of score SDEs, beta from 20 to 0.1; d_sigma is infinite at t = 1."""
    beta_range = VP_BETA_MAX - VP_BETA_MIN
    log_alpha = -0.25 * (1 - t) ** 2 * beta_range - 0.5 * (1 - t) * VP_BETA_MIN
    d_log_alpha = 0.5 * (1 - t) * beta_range + 0.5 * VP_BETA_MIN
    alpha = torch.exp(log_alpha)
    sigma = torch.sqrt(-torch.expm1(2 * log_alpha))
    return Coefficients(alpha, sigma, alpha * d_log_alpha, -(alpha**2) * d_log_alpha / sigma)


PATHS: dict[PathName, Path] = {"linear": linear, "gvp": gvp, "vp": vp}


def last_training_time(path: Path) -> float:
    """Training times are drawn from [0, this] (SiT): the vp path stops short of the data, where its velocity is infinite."""
    return 1 - 1e-5 if path is vp else 1.0


def last_sampling_time(path: Path) -> float:
    """Where solvers without a last step stop, for the same reason (`sampler_table.VP_END`)."""
    return VP_END if path is vp else 1.0


def along(path: Path, t: Tensor, x: Tensor) -> Coefficients:
    """The coefficients at t, shaped to multiply x [B, ...]; t is [B], or 0-dimensional if shared by all."""
    return path(t.view(-1, *[1] * (x.ndim - 1)) if t.ndim else t)


def interpolate(path: Path, x: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """(x_t, velocity): x_t = alpha x + sigma eps and its time derivative, the regression target of SiT."""
    p = along(path, t, x)
    return p.alpha * x + p.sigma * noise, p.d_alpha * x + p.d_sigma * noise


def noise_from_velocity(path: Path, v: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """E[eps | x_t = x], from x = alpha x_1 + sigma eps and v = d_alpha x_1 + d_sigma eps; linear: x - t v."""
    p = along(path, t, x)
    return (p.d_alpha * x - p.alpha * v) / (p.d_alpha * p.sigma - p.alpha * p.d_sigma)


def data_from_velocity(path: Path, v: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """E[x_1 | x_t = x], from the same two equations (Tweedie's estimate); linear: x + (1 - t) v."""
    p = along(path, t, x)
    return (p.sigma * v - p.d_sigma * x) / (p.d_alpha * p.sigma - p.alpha * p.d_sigma)


def score_from_noise(path: Path, noise: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """The gradient of log p_t(x) = -E[eps | x] / sigma; infinite at t = 1."""
    return -noise / along(path, t, x).sigma


def score_from_velocity(path: Path, v: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """The gradient of log p_t(x) (SiT section 2), (t v - x) / (1 - t) if linear; infinite at t = 1."""
    return score_from_noise(path, noise_from_velocity(path, v, x, t), x, t)


def noise_from_score(path: Path, score: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """E[eps | x_t = x] = -sigma times the score."""
    return -along(path, t, x).sigma * score


def velocity_from_noise(path: Path, noise: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """d_alpha E[x_1 | x] + d_sigma E[eps | x]; undefined where alpha = 0: at t = 0 if linear or gvp."""
    p = along(path, t, x)
    return p.d_alpha * (x - p.sigma * noise) / p.alpha + p.d_sigma * noise


def velocity_from_score(path: Path, score: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """The velocity of the probability-flow ODE with this score; undefined where alpha = 0."""
    return velocity_from_noise(path, noise_from_score(path, score, x, t), x, t)


def diffusion(path: Path, form: str, norm: float, t: Tensor) -> Tensor:
    """The diffusion coefficient D(t) of dX = (v + D score) dt + sqrt(2 D) dW, of the shape of t (SiT).

    Every form gives the same marginals. "SBDM" is the coefficient of the score-based SDE, (d_alpha / alpha)
    sigma^2 - sigma d_sigma; on the linear and gvp paths it is infinite at t = 0. Raises ValueError for an
    unknown form.
    """
    p = path(t)
    match form:
        case "constant":
            return norm * torch.ones_like(t)
        case "SBDM":
            return norm * (p.d_alpha / p.alpha * p.sigma**2 - p.sigma * p.d_sigma)
        case "sigma":
            return norm * p.sigma
        case "linear":
            return norm * (1 - t)
        case "decreasing":
            return 0.25 * (norm * torch.cos(math.pi * t) + 1) ** 2
        case "increasing-decreasing":
            return norm * torch.sin(math.pi * t) ** 2
    raise ValueError(f"diffusion form: got {form!r}, expected one of {', '.join(DIFFUSION_FORMS)}")
