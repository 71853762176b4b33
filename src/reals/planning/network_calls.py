"""How often a sampler calls the network for one sample."""

from reals.experiment.sampler_table import SAMPLERS, SamplerName
from reals.experiment.specs import SamplesSpec

DOPRI5_EVALUATIONS = 120  # a guess: it takes what its tolerance asks, and a trained SiT asks for 100 to 150


def network_calls(spec: SamplesSpec) -> int:
    """Forward passes of one sample in a transformer, a guided evaluation counting two."""
    times = _evaluation_times(spec.sampler, spec.steps, spec.sde.last_step_size if spec.sde else 0.0)
    if spec.end is not None:
        times = [1 - spec.end * (1 - t) for t in times]
    if spec.cfg == 1:
        return len(times)
    low, high = spec.interval or (0.0, 1.0)
    noise = (spec.interval_time or "noise") == "noise"
    slack = 1e-9  # as in guidance.guided
    return len(times) + sum(low - slack <= (t if noise else 1 - t) <= high + slack for t in times)


def _evaluation_times(name: SamplerName, steps: int | None, last_size: float) -> list[float]:
    """Noise time (1 is noise) of each network evaluation; evenly spaced, as Euler's, for a sampler that chooses them itself."""
    times = SAMPLERS[name].times
    if times is None or steps is None:
        return [1 - i / DOPRI5_EVALUATIONS for i in range(DOPRI5_EVALUATIONS)]
    return times(steps, last_size)
