"""DiT's discrete diffusion: its linear-beta schedule, the respacing, and the Gaussians of the chain."""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from reals.experiment.sampler_table import CHAIN_STEPS

BETA_FIRST = 1e-4
BETA_LAST = 0.02


@dataclass(frozen=True)
class Schedule:
    """Tables of one chain, float64, one entry a step; index 0 is the least noisy step.

    `timesteps` (int64) holds the steps' numbers in the training chain, which is what the network is fed. Training looks up its
    batch's steps in tables on the device (`to`), samplers one step at a time in tables on the CPU.
    """

    timesteps: Tensor
    beta: Tensor
    alpha_bar: Tensor
    alpha_bar_previous: Tensor
    posterior_variance: Tensor
    posterior_log_variance: Tensor
    posterior_data: Tensor
    posterior_noisy: Tensor

    def __len__(self) -> int:
        return len(self.timesteps)

    def to(self, device: torch.device | str) -> "Schedule":
        """The same schedule with its tables on `device`."""
        return Schedule(*(getattr(self, field.name).to(device) for field in fields(self)))


def schedule_from_betas(beta: Tensor, timesteps: Tensor) -> Schedule:
    """The tables that follow from beta [T] float64, T >= 2 (Ho et al. eq. 4 and 7)."""
    alpha = 1 - beta
    alpha_bar = alpha.cumprod(0)
    previous = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    variance = beta * (1 - previous) / (1 - alpha_bar)
    return Schedule(
        timesteps=timesteps,
        beta=beta,
        alpha_bar=alpha_bar,
        alpha_bar_previous=previous,
        posterior_variance=variance,
        # The posterior of step 0 is a point; step 1 lends it a finite log-variance (Nichol & Dhariwal 2021).
        posterior_log_variance=torch.cat([variance[1:2], variance[1:]]).log(),
        posterior_data=beta * previous.sqrt() / (1 - alpha_bar),
        posterior_noisy=(1 - previous) * alpha.sqrt() / (1 - alpha_bar),
    )


def linear_schedule(steps: int = CHAIN_STEPS) -> Schedule:
    """DiT's training chain: beta from 1e-4 to 0.02 in equal steps, times 1000 / steps for other lengths."""
    scale = CHAIN_STEPS / steps
    if scale * BETA_LAST >= 1:
        raise ValueError(f"diffusion steps: got {steps}, expected more than {CHAIN_STEPS * BETA_LAST:.0f} (beta < 1)")
    beta = torch.linspace(scale * BETA_FIRST, scale * BETA_LAST, steps, dtype=torch.float64)
    return schedule_from_betas(beta, torch.arange(steps))


def respaced_timesteps(total: int, count: int) -> list[int]:
    """`count` steps of `total`, both ends included, evenly strided and rounded half to even (ADM)."""
    if not 2 <= count <= total:
        raise ValueError(f"sampling steps: got {count}, expected 2..{total} (the training chain's length)")
    stride = (total - 1) / (count - 1)
    kept, position = [], 0.0
    for _ in range(count):
        kept.append(round(position))
        position += stride
    return kept


def respace(schedule: Schedule, count: int) -> Schedule:
    """The chain over `count` of the steps: it keeps their alpha_bar, and the other tables follow."""
    kept = torch.tensor(respaced_timesteps(len(schedule), count))
    alpha_bar = schedule.alpha_bar[kept]
    previous = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    return schedule_from_betas(1 - alpha_bar / previous, schedule.timesteps[kept])


def at(table: Tensor, t: Tensor | int, x: Tensor) -> Tensor:
    """The entries of `table` at t ([B] int64, where the table is, or one int), in x's dtype and shaped to multiply x.

    One entry of a table on the CPU stays there: a GPU takes a single number with the call, and waits for no copy.
    """
    if isinstance(t, int):
        return table[t].to(x.dtype)
    return table[t].to(x.dtype).view(-1, *[1] * (x.ndim - 1))


def add_noise(schedule: Schedule, x: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
    """x_t = sqrt(alpha_bar) x + sqrt(1 - alpha_bar) eps (Ho et al. eq. 4)."""
    return at(schedule.alpha_bar.sqrt(), t, x) * x + at((1 - schedule.alpha_bar).sqrt(), t, x) * noise


def data_from_noise(schedule: Schedule, noise: Tensor, x_t: Tensor, t: Tensor | int) -> Tensor:
    """The x_0 that a predicted noise implies; not clipped, since latents have no range."""
    inverse = 1 / schedule.alpha_bar
    return at(inverse.sqrt(), t, x_t) * x_t - at((inverse - 1).sqrt(), t, x_t) * noise


def posterior(schedule: Schedule, x: Tensor, x_t: Tensor, t: Tensor | int) -> tuple[Tensor, Tensor]:
    """(mean, log-variance) of q(x_{t-1} | x_t, x_0 = x) (Ho et al. eq. 6 and 7)."""
    mean = at(schedule.posterior_data, t, x_t) * x + at(schedule.posterior_noisy, t, x_t) * x_t
    return mean, at(schedule.posterior_log_variance, t, x_t)


def split(output: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """A network's raw output [B, 2C, H, W] as (noise, variance fraction), each shaped as x [B, C, H, W].

    Raises ValueError if the network has no variance channels.
    """
    channels = x.shape[1]
    if output.shape[1] != 2 * channels:
        raise ValueError(f"DDPM network: got {output.shape[1]} output channels, expected {2 * channels}; set learn_sigma")
    return output[:, :channels], output[:, channels:]


def learned_log_variance(schedule: Schedule, v: Tensor, t: Tensor | int) -> Tensor:
    """From the posterior's log-variance (v = -1) to beta's (v = 1), unclamped (Nichol & Dhariwal eq. 15)."""
    fraction = (v + 1) / 2
    low, high = at(schedule.posterior_log_variance, t, v), at(schedule.beta.log(), t, v)
    return fraction * high + (1 - fraction) * low


def reverse_step(schedule: Schedule, output: Tensor, x_t: Tensor, t: Tensor | int) -> tuple[Tensor, Tensor]:
    """(mean, log-variance) of the model's p(x_{t-1} | x_t) from its raw output [B, 2C, H, W]."""
    noise, v = split(output, x_t)
    mean, _ = posterior(schedule, data_from_noise(schedule, noise, x_t, t), x_t, t)
    return mean, learned_log_variance(schedule, v, t)


def ddim_step(schedule: Schedule, noise: Tensor, x_t: Tensor, k: int, eta: float, fresh: Tensor | None) -> Tensor:
    """x_{k-1} from the predicted noise at step k (Song et al. 2021 eq. 12); `fresh` is N(0, I) or None."""
    alpha_bar, previous = schedule.alpha_bar[k], schedule.alpha_bar_previous[k]
    sigma = eta * torch.sqrt((1 - previous) / (1 - alpha_bar) * (1 - alpha_bar / previous))
    data = data_from_noise(schedule, noise, x_t, k)
    mean = previous.sqrt().to(x_t.dtype) * data + (1 - previous - sigma**2).sqrt().to(x_t.dtype) * noise
    return mean if fresh is None else mean + sigma.to(x_t.dtype) * fresh


def gaussian_kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(other_mean, other_variance)), elementwise, in nats."""
    gap = log_variance - other_log_variance
    return 0.5 * (torch.expm1(gap) - gap + (mean - other_mean) ** 2 * torch.exp(-other_log_variance))


def discretised_gaussian_nll(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """-log of the Gaussian's mass in [x - 1/255, x + 1/255], open-ended beyond +-0.999, elementwise, in nats.

    A leftover of ADM's 8-bit pixels, tanh form of the cdf included, which DiT applies to its latents as it
    is.
    """
    low = torch.exp(-log_std) * (x - mean - 1 / 255)
    high = torch.exp(-log_std) * (x - mean + 1 / 255)
    below, above = _normal_cdf(low), _normal_cdf(high)
    mass = torch.where(x < -0.999, above, torch.where(x > 0.999, 1 - below, above - below))
    return -mass.clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def variational_bound(schedule: Schedule, output: Tensor, x: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The variational bound's terms [B] at steps t [B], in bits per dimension (Nichol & Dhariwal eq. 4-6).

    KL(q(x_{t-1} | x_t, x) || p(x_{t-1} | x_t)) for t > 0, discretised negative log-likelihood of x for t = 0.
    """
    true_mean, true_log_variance = posterior(schedule, x, x_t, t)
    mean, log_variance = reverse_step(schedule, output, x_t, t)
    kl = gaussian_kl(true_mean, true_log_variance, mean, log_variance)
    nll = discretised_gaussian_nll(x, mean, 0.5 * log_variance)
    first = (t == 0).view(-1, *[1] * (x.ndim - 1))
    return torch.where(first, nll, kl).flatten(1).mean(1) / math.log(2)
