"""The calls that a plan counts are those that the samplers make."""

from dataclasses import replace

import pytest
import torch

from reals.experiment.sampler_table import SAMPLERS
from reals.experiment.specs import SamplesSpec, SdeSpec
from reals.method.models.transformer import TransformerConfig
from reals.method.samplers import per_sample_noise
from reals.method.sampling import Sampling
from reals.planning.network_calls import network_calls

SDE = SdeSpec(diffusion_form="sigma", diffusion_norm=1.0, last_step="mean", last_step_size=0.04)
SAMPLES = SamplesSpec(
    run="r", autoencoder="a", step=1, sampler="sde", cfg=1.0, steps=1, interval=None, interval_time=None, cfg_channels="all", n=1,
    labels="random", seed=0, interpolant=None, eta=None, sde=SDE, precision=None, end=None,
)  # fmt: skip


@pytest.mark.parametrize("sampler", ["sde", "heun-sde", "ode", "euler", "ddpm", "ddim"])
@pytest.mark.parametrize(("cfg", "interval", "time"), [(1.0, None, None), (2.0, None, None), (2.0, (0.1, 0.75), "noise"), (2.0, (0.1, 0.75), "data")])  # fmt: skip
@pytest.mark.parametrize("steps", [10, 250])
@pytest.mark.parametrize("path", ["linear", "vp"])
def test_network_calls_are_those_the_samplers_make(sampler, cfg, interval, time, steps, path):
    made = 0
    if path == "vp" and SAMPLERS[sampler].family == "DiT":
        return

    class Network:
        config = TransformerConfig(16, 1, 2, 2, 1, 2, 3, learn_sigma=True)

        def __call__(self, x, t, y):
            nonlocal made
            made += len(x)
            return torch.zeros(len(x), 2, *x.shape[2:])

    sampling = Sampling(sampler, steps, cfg, "all", interval or (0.0, 1.0), time or "noise", path=path)
    network = Network()
    field = sampling.field(network, torch.zeros(1, dtype=torch.int64), null=3)
    sampling.integrate(field, torch.zeros(1, 1, 2, 2), per_sample_noise(0, [0], (1, 2, 2), "test"))
    spec = replace(
        SAMPLES,
        sampler=sampler,
        steps=steps,
        cfg=cfg,
        interval=interval,
        interval_time=time,
        sde=SDE if "sde" in sampler else None,
        end=sampling.end if sampling.end < 1 else None,
    )
    assert network_calls(spec) == made


def test_the_paper_s_interval_guides_185_of_250_evaluations():
    spec = replace(SAMPLES, steps=250, cfg=1.8, interval=(0, 0.75), interval_time="noise")
    assert network_calls(spec) == 250 + 185
