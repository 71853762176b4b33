"""The samplers, one line of facts each: all that sheets, command line, sampling and plan know of a sampler's name.

To add a sampler, write it in `reals.method.samplers`, call it in `reals.method.sampling`, and add its `Sampler` here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

Family = Literal["SiT", "DiT"]
SamplerName = Literal["sde", "heun-sde", "ode", "euler", "dopri5", "ddpm", "ddim"]
Setting = Literal["steps", "form", "norm", "last", "last_size", "eta"]

DiffusionForm = Literal["sigma", "linear", "SBDM", "constant", "decreasing", "increasing-decreasing"]
"""The diffusion coefficient D(t) of the SDE samplers (`paths.diffusion`)."""
LastStep = Literal["mean", "tweedie", "euler", "none"]
"""The noiseless last step of the SDE samplers (`samplers.euler_maruyama`)."""
PathName = Literal["linear", "gvp", "vp"]
"""The interpolant a SiT is trained and sampled on (`paths.PATHS`)."""
IntervalTime = Literal["noise", "data"]
"""What a guidance interval counts: 1 is noise, or 1 is data (`guidance.guided`)."""
GuidedChannels = Literal["3", "all"]
"""The latent channels that guidance acts on, as sheets and command line spell them (`guidance.guided`)."""

DIFFUSION_FORMS: tuple[DiffusionForm, ...] = get_args(DiffusionForm)
LAST_STEPS: tuple[LastStep, ...] = get_args(LastStep)
PATH_NAMES: tuple[PathName, ...] = get_args(PathName)
INTERVAL_TIMES: tuple[IntervalTime, ...] = get_args(IntervalTime)
GUIDED_CHANNELS: dict[GuidedChannels, int | Literal["all"]] = {"3": 3, "all": "all"}

VP_END = 1 - 1e-3
"""Where SiT's solvers stop on the vp path, whose velocity is infinite at the data (sample_eps of its transport): ODEs, and SDEs
without a last step. A last step begins where it does on the other paths, which all solvers follow to t = 1."""

CHAIN_STEPS = 1000
"""Steps of DiT's diffusion as it is trained; its samplers take some of them."""

LEAST_OF_HEUN = 4
"""Evaluations of a sampler whose steps take two each, of which there are at least two."""

Times = Callable[[int, float], list[float]]
"""(steps, size of the last step) -> noise time, 1 being noise, of each network evaluation for one image."""


def _sde_times(steps: int, last_size: float) -> list[float]:
    """One evaluation at each of ``steps`` times, evenly spaced from noise to where the last step begins."""
    return [1 - (1 - last_size) * i / max(steps - 1, 1) for i in range(steps)]


def _heun_sde_times(steps: int, last_size: float) -> list[float]:
    """Each step but the last evaluates at its start and at its end."""
    grid = _sde_times(steps, last_size)
    return grid + grid[1:]


def _euler_times(steps: int, _: float) -> list[float]:
    return [1 - i / steps for i in range(steps)]


def _heun_times(steps: int, _: float) -> list[float]:
    """``steps`` counts evaluations, two for each of its ``steps`` / 2 equal steps: at its start and at its end."""
    k = steps // 2
    return _euler_times(k, 0) + [1 - (i + 1) / k for i in range(k)]


def _chain_times(steps: int, _: float) -> list[float]:
    """``steps`` of the training chain's, evenly respaced; its step k has noise time k / 999."""
    last = CHAIN_STEPS - 1
    return [round(i * last / (steps - 1)) / last for i in range(steps)] if steps > 1 else [0.0]


@dataclass(frozen=True)
class Sampler:
    """One way from noise to data."""

    family: Family  # of the networks it draws from
    printed: str
    settings: tuple[Setting, ...]  # what may be set of it
    times: Times | None  # None: it chooses number and times of its evaluations itself, by its tolerance
    sde: bool = False  # with noise along the way, in one of the diffusion forms, and a last step of its own
    even: bool = False  # its steps are evaluations, two for each step of the solver

    def evaluations(self, steps: int) -> int | None:
        """How often the network is evaluated for one image (twice where guided, in one call); None where it is not fixed."""
        return None if self.times is None else len(self.times(steps, 0.0))


_OF_SDE: tuple[Setting, ...] = ("steps", "form", "norm", "last", "last_size")

SAMPLERS: dict[SamplerName, Sampler] = {
    "sde": Sampler("SiT", "SDE Euler-Maruyama", _OF_SDE, _sde_times, sde=True),
    "heun-sde": Sampler("SiT", "SDE Heun", _OF_SDE, _heun_sde_times, sde=True),
    "ode": Sampler("SiT", "ODE Heun", ("steps",), _heun_times, even=True),
    "euler": Sampler("SiT", "ODE Euler", ("steps",), _euler_times),
    "dopri5": Sampler("SiT", "ODE dopri5 (absolute tolerance 1e-6, relative 1e-3)", (), None),
    "ddpm": Sampler("DiT", "DDPM", ("steps",), _chain_times),
    "ddim": Sampler("DiT", "DDIM", ("steps", "eta"), _chain_times),
}


def samplers_of(family: str) -> tuple[SamplerName, ...]:
    """The samplers that draw from networks of a family."""
    return tuple(name for name, sampler in SAMPLERS.items() if sampler.family == family)


def samplers_with(setting: Setting) -> tuple[SamplerName, ...]:
    """The samplers of which this may be set."""
    return tuple(name for name, sampler in SAMPLERS.items() if setting in sampler.settings)


SDE_SAMPLERS: tuple[SamplerName, ...] = tuple(name for name, sampler in SAMPLERS.items() if sampler.sde)
