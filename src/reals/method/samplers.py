"""Samplers: functions that carry noise to data along a field (`guidance`), which they call and know nothing else of.

A field maps (x [B, C, H, W], a time shared by the batch) to a tensor: for the flow samplers the velocity at a
float t (SiT time, 0 noise, 1 data), for the DDPM samplers the raw output [B, 2C, H, W] at an int training
step 0..999. Every sampler takes the initial noise as `x`, works in its dtype and without gradients, and calls
`progress(done, total)` after each step.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from reals import rng
from reals.experiment.sampler_table import LAST_STEPS
from reals.method import ddpm, paths
from reals.method.guidance import Field

NoiseAt = Callable[[int], Tensor]
Progress = Callable[[int, int], None]


def per_sample_noise(
    seed: int,
    indices: Sequence[int],
    shape: tuple[int, ...],
    purpose: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> NoiseAt:
    """A `noise_at` whose noise for sample i at step k depends on (seed, purpose, i, k), never on the batch.

    `noise_at(k)` is [len(indices), *shape] ~ N(0, I), drawn in float32 on the CPU, from step 1 on by a thread while the step
    before runs. Each sample has one generator, read in order, so the steps must be asked for as 0, 1, 2, ..., each once;
    anything else is an AssertionError.
    """
    generators = [rng.generator(seed, purpose, index) for index in indices]
    thread = ThreadPoolExecutor(1, "sample noise")  # ends with the function below, which alone holds it
    ahead: Future[Tensor] | None = None
    expected = 0

    def noise_at(k: int) -> Tensor:
        nonlocal expected, ahead
        assert k == expected, f"noise of step {k} asked for, step {expected} is next"
        expected += 1
        drawn = _drawn(generators, shape, device) if ahead is None else ahead.result()
        ahead = thread.submit(_drawn, generators, shape, device)
        return drawn.to(device, dtype, non_blocking=True)

    return noise_at


def start_noise(
    seed: int, indices: Sequence[int], shape: tuple[int, ...], purpose: str, device: torch.device | str = "cpu"
) -> Tensor:
    """What `per_sample_noise` gives for step 0, where no other step is needed."""
    generators = [rng.generator(seed, purpose, index) for index in indices]
    return _drawn(generators, shape, device).to(device, non_blocking=True)


def _drawn(generators: Sequence[torch.Generator], shape: tuple[int, ...], device: torch.device | str) -> Tensor:
    """The next noise of each generator, float32 [len(generators), *shape], in memory that is copied to a GPU in the background."""
    noise = torch.empty(len(generators), *shape, pin_memory=torch.device(device).type == "cuda")
    for row, generator in zip(noise, generators, strict=True):
        row.normal_(generator=generator)
    return noise


def _check_steps(steps: int) -> None:
    if steps < 2:
        raise ValueError(f"sampling steps: got {steps}, expected at least 2")


def sde_times(steps: int, end: float, start: float = 0.0) -> Tensor:
    """The `steps` times of the SDE samplers, float64, evenly from `start` to `end`."""
    return torch.linspace(start, end, steps, dtype=torch.float64)


@dataclass(frozen=True)
class _Sde:
    """dX = (v + D score) dt + sqrt(2 D) dW for one field."""

    field: Field
    path: paths.Path
    form: str
    norm: float

    def diffusion(self, t: Tensor) -> Tensor:
        return paths.diffusion(self.path, self.form, self.norm, t)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        v = self.field(x, float(t))
        return v + self.diffusion(t) * paths.score_from_velocity(self.path, v, x, t)

    def last_step(self, x: Tensor, t: Tensor, last: str, size: float) -> Tensor:
        match last:
            case "mean":
                return x + self.drift(x, t) * size
            case "euler":
                return x + self.field(x, float(t)) * size
            case "tweedie":
                return paths.data_from_velocity(self.path, self.field(x, float(t)), x, t)
        return x


@torch.no_grad()
def euler_maruyama(
    field: Field,
    x: Tensor,
    steps: int,
    noise_at: NoiseAt,
    form: str = "sigma",
    norm: float = 1.0,
    last: str = "mean",
    last_size: float = 0.04,
    path: paths.Path = paths.linear,
    start: float = 0.0,
    progress: Progress | None = None,
) -> Tensor:
    """x at t = 1 by SiT's SDE sampler, dX = (v + D score) dt + sqrt(2 D) dW, in `steps` evaluations.

    steps - 1 Euler-Maruyama steps over [start, 1 - last_size], then a noiseless step of `last_size`: "mean" along
    the drift, "euler" along the velocity, "tweedie" to E[x_1 | x_t], or "none", which demands last_size 0,
    saves its evaluation and stops at `paths.last_sampling_time`. `form` and `norm` give D (`paths.diffusion`). `noise_at(k)` is the noise of step k =
    0..steps-2. `x` is at time `start`: noise at 0, else data with noise added (`paths.interpolate`). The
    defaults are those of SiT's published numbers, and REPA's sampler is the same one in tau = 1 - t. Raises ValueError for
    unusable settings, such as a form that is infinite at `start`.
    """
    sde = _Sde(field, path, form, norm)
    times, dt = _sde_grid(sde, steps, last, last_size, start)
    for k, t in enumerate(times[:-1]):
        x = x + sde.drift(x, t) * dt + torch.sqrt(2 * sde.diffusion(t) * dt) * noise_at(k)
        _report(progress, k + 1, steps)
    x = sde.last_step(x, times[-1], last, last_size)
    _report(progress, steps, steps)
    return x


@torch.no_grad()
def heun_sde(
    field: Field,
    x: Tensor,
    steps: int,
    noise_at: NoiseAt,
    form: str = "sigma",
    norm: float = 1.0,
    last: str = "mean",
    last_size: float = 0.04,
    path: paths.Path = paths.linear,
    start: float = 0.0,
    progress: Progress | None = None,
) -> Tensor:
    """As `euler_maruyama`, but a noisy step is its noise, then Heun's rule: 2 steps - 1 evaluations.

    The last step "none" is refused: it would need the drift at t = 1, where the score is infinite.
    """
    if last == "none":
        raise ValueError("last step 'none': Heun would need the score at t = 1, which is infinite; use 'mean'")
    sde = _Sde(field, path, form, norm)
    times, dt = _sde_grid(sde, steps, last, last_size, start)
    for k, (t, t_next) in enumerate(pairwise(times)):
        x = x + torch.sqrt(2 * sde.diffusion(t) * dt) * noise_at(k)
        slope = sde.drift(x, t)
        x = x + 0.5 * dt * (slope + sde.drift(x + dt * slope, t_next))
        _report(progress, k + 1, steps)
    x = sde.last_step(x, times[-1], last, last_size)
    _report(progress, steps, steps)
    return x


def _sde_grid(sde: _Sde, steps: int, last: str, last_size: float, start: float) -> tuple[Tensor, float]:
    """(times, spacing), after checking the settings."""
    _check_steps(steps)
    if last not in LAST_STEPS:
        raise ValueError(f"last step: got {last!r}, expected one of {', '.join(LAST_STEPS)}")
    if last == "none" and last_size != 0:
        raise ValueError(f"last step 'none': got last_size {last_size}, expected 0, so that the grid reaches the data")
    if last != "none" and not 0 < last_size < 1:
        raise ValueError(f"last_size: got {last_size}, expected 0 < last_size < 1, as the score is infinite at t = 1")
    if not sde.norm >= 0:
        raise ValueError(f"diffusion norm: got {sde.norm}, expected at least 0")
    if not 0 <= start < 1 - last_size:
        raise ValueError(f"start: got {start}, expected 0 <= start < {1 - last_size:g}, where the last step begins")
    end = 1 - last_size if last_size else paths.last_sampling_time(sde.path)
    times = sde_times(steps, end, start)
    if not torch.isfinite(sde.diffusion(times[0])):
        raise ValueError(f"diffusion form {sde.form!r} is infinite at t = {start:g}, where sampling starts; use 'sigma'")
    return times, (end - start) / (steps - 1)


def _report(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


@torch.no_grad()
def euler(field: Field, x: Tensor, steps: int, end: float = 1.0, progress: Progress | None = None) -> Tensor:
    """x at t = `end` by `steps` equal Euler steps of dX = v dt: `steps` evaluations, first order."""
    _check_steps(steps)
    for k in range(steps):
        x = x + field(x, end * k / steps) * end / steps
        _report(progress, k + 1, steps)
    return x


@torch.no_grad()
def heun(field: Field, x: Tensor, steps: int, end: float = 1.0, progress: Progress | None = None) -> Tensor:
    """x at t = `end` by `steps` equal Heun steps of dX = v dt: 2 steps evaluations, second order.

    SiT's ODE numbers are 125 steps, 250 evaluations. REPA's Heun leaves the correction out of its last step;
    this one, as SiT's, does not.
    """
    _check_steps(steps)
    for k in range(steps):
        slope = field(x, end * k / steps)
        x = x + (slope + field(x + slope * end / steps, end * (k + 1) / steps)) * end / (2 * steps)
        _report(progress, k + 1, steps)
    return x


@torch.no_grad()
def dopri5(field: Field, x: Tensor, end: float = 1.0, atol: float = 1e-6, rtol: float = 1e-3) -> Tensor:
    """x at t = `end` by torchdiffeq's adaptive Dormand-Prince solver, tolerances as in SiT.

    The step sizes follow the error over the whole batch, so images depend (within the tolerance) on the batch
    they are in, and the number of evaluations is not fixed. Raises ValueError if torchdiffeq is not
    installed, FloatingPointError if the velocity is not finite.
    """
    try:
        from torchdiffeq import odeint
    except ImportError as error:
        raise ValueError("sampler dopri5 needs the package torchdiffeq: install it, or use heun") from error
    ends = torch.tensor([0.0, end], dtype=torch.float64, device=x.device)
    try:
        return odeint(lambda t, state: field(state, float(t)), x, ends, method="dopri5", atol=atol, rtol=rtol)[-1]
    except AssertionError as error:  # what torchdiffeq raises where no step is small enough
        raise FloatingPointError(
            f"sampler dopri5: no step is small enough ({error}); the network has diverged, or take ode"
        ) from error


@torch.no_grad()
def ddpm_ancestral(
    field: Field, x: Tensor, schedule: ddpm.Schedule, noise_at: NoiseAt, progress: Progress | None = None
) -> Tensor:
    """x_0 by ancestral sampling over `schedule` (DiT: respaced to 250), unclipped: len(schedule) evaluations.

    `noise_at(k)` is the noise of step k = 0..len(schedule)-2, counted from the noisiest; the last step adds
    none.
    """
    total = len(schedule)
    for k, step in enumerate(reversed(range(total))):
        mean, log_variance = ddpm.reverse_step(schedule, field(x, int(schedule.timesteps[step])), x, step)
        x = mean if step == 0 else mean + torch.exp(0.5 * log_variance) * noise_at(k)
        _report(progress, k + 1, total)
    return x


@torch.no_grad()
def ddim(
    field: Field,
    x: Tensor,
    schedule: ddpm.Schedule,
    eta: float,
    noise_at: NoiseAt | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """x_0 by DDIM over `schedule`: len(schedule) evaluations; eta 0 is deterministic, 1 is DDPM's posterior.

    `noise_at` as in `ddpm_ancestral`, needed iff eta > 0. The field's variance channels, if any, are ignored.
    """
    if not eta >= 0:
        raise ValueError(f"DDIM eta: got {eta}, expected at least 0")
    if eta > 0 and noise_at is None:
        raise ValueError(f"DDIM eta {eta} adds noise at each step; give noise_at")
    total = len(schedule)
    for k, step in enumerate(reversed(range(total))):
        noise = field(x, int(schedule.timesteps[step]))[:, : x.shape[1]]
        fresh = noise_at(k) if noise_at is not None and eta > 0 and step > 0 else None
        x = ddpm.ddim_step(schedule, noise, x, step, eta, fresh)
        _report(progress, k + 1, total)
    return x
