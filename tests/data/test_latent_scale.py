"""Latents are scaled as diffusers' pipelines scale them, and back; what cannot be scaled by gets one line."""

import numpy as np
import pytest
import torch

from reals.data.latent_scale import LatentScale

PER_CHANNEL = {"scaling_factor": 0.5, "latents_mean": [0.1, -2.0, 0.0], "latents_std": [0.5, 4.0, 1.0], "latent_channels": 3}


@pytest.mark.parametrize("config", [{"scaling_factor": 0.18215, "latent_channels": 3}, PER_CHANNEL])
def test_scaled_is_what_diffusers_pipelines_do_and_unscaled_is_back(config):
    z = np.random.default_rng(0).normal(size=(2, 3, 4, 4))
    mean = np.array(config.get("latents_mean", [0.0] * 3))[:, None, None]
    std = np.array(config.get("latents_std", [1.0] * 3))[:, None, None]
    scale = LatentScale.of_config(config)
    x = scale.scaled_(torch.from_numpy(z.copy()))
    np.testing.assert_allclose(x.numpy(), (z - mean) * config["scaling_factor"] / std, rtol=1e-12)
    np.testing.assert_allclose(scale.unscaled(x).numpy(), z, rtol=1e-12)
    assert LatentScale.of(scale.facts()) == scale and LatentScale.of(scale.facts(), 2.0) == scale.times(2.0)


@pytest.mark.parametrize(
    "config",
    [{"shift_factor": 0, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}, {"shift_factor": None, "latents_mean": None, "latents_std": None}],
)  # fmt: skip
def test_values_that_change_nothing_are_one_factor_and_its_bits_stay(config):
    scale = LatentScale.of_config(config | {"scaling_factor": 0.3})
    assert scale == LatentScale(0.3) and scale.facts() == {"scaling_factor": 0.3}
    z = torch.randn(2, 4, 3, 3)
    assert torch.equal(scale.scaled_(z.clone()), z * 0.3) and torch.equal(scale.unscaled(z), z / 0.3)


def test_a_shift_factor_is_the_mean_of_every_channel():
    """Stable Diffusion 3's and FLUX's: x = (z - shift) * factor."""
    scale = LatentScale.of_config({"scaling_factor": 1.5305, "shift_factor": 0.0609, "latent_channels": 16})
    z = torch.randn(1, 16, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(scale.scaled_(z.clone()), (z - 0.0609) * 1.5305)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"latents_mean": [0.1, 0.0]}, r"has latents_mean \[0.1, 0.0\]; expected 4 numbers, one for each channel"),
        ({"latents_std": [1, 1, 1, 0]}, r"has latents_std \[1, 1, 1, 0\]; expected numbers above 0"),
        ({"latents_std": [1, 1, 1, float("nan")]}, "has latents_std .*nan.*; expected 4 numbers"),
        ({"latents_mean": "none"}, "has latents_mean none"),
        ({"latents_mean": [0.1] * 4, "shift_factor": 0.5}, "has shift_factor 0.5 and latents_mean"),
        ({"scaling_factor": 0}, "has scaling_factor 0; expected a number above 0"),
        ({"scaling_factor": None}, "has scaling_factor None; expected a number above 0"),
        ({"latent_channels": "4"}, "has latent_channels 4; expected a whole number above 0"),
    ],
)
def test_what_no_latents_can_be_scaled_by_is_refused(config, says):
    with pytest.raises(ValueError, match=says):
        LatentScale.of_config({"scaling_factor": 1.0, "latent_channels": 4} | config)
