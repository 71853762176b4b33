"""What is known of a sampler by its name."""

from typing import get_args

import pytest

from reals.experiment.sampler_table import SAMPLERS, SDE_SAMPLERS, SamplerName, samplers_of, samplers_with


def test_families_and_settings_are_told_apart():
    assert samplers_of("DiT") == ("ddpm", "ddim") and "dopri5" in samplers_of("SiT")
    assert samplers_with("eta") == ("ddim",)
    assert samplers_with("form") == ("sde", "heun-sde")
    assert set(SAMPLERS) - set(samplers_with("steps")) == {"dopri5"}


def test_every_name_has_its_facts():
    assert set(SAMPLERS) == set(get_args(SamplerName))
    assert SDE_SAMPLERS == ("sde", "heun-sde")


@pytest.mark.parametrize(
    ("name", "evaluations"),
    [("sde", 250), ("heun-sde", 499), ("ode", 250), ("euler", 250), ("ddpm", 250), ("ddim", 250), ("dopri5", None)],
)
def test_steps_mean_as_many_evaluations(name, evaluations):
    assert SAMPLERS[name].evaluations(250) == evaluations


STOPS_BEFORE_DATA = {"euler"}  # evaluates at the start of each step alone, so last at one step's length from data


@pytest.mark.parametrize("name", [name for name, sampler in SAMPLERS.items() if sampler.times])
def test_evaluations_begin_at_noise_and_end_at_data(name):
    times = SAMPLERS[name].times(10, 0.0)
    assert (max(times), min(times)) == (1, pytest.approx(0.1) if name in STOPS_BEFORE_DATA else 0)
