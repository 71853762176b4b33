"""The sheets and scales that ship are right."""

import pytest

from reals.experiment.load import load
from reals.experiment.reading import ConfigError

SCALES = ["demo", "smoke", "cifar10", "imagenet100", "imagenet100-24gb", "imagenet256"]


@pytest.mark.parametrize("scale", SCALES)
def test_shipped_scales_load(scale, project):
    assert load(scale).scale.name == scale


def test_the_paper_scale_is_the_paper(project):
    s = load("imagenet256").scale
    assert (s.autoencoder.lr, s.autoencoder.batch, s.autoencoder.steps) == (5e-5, 64, 10 * 1281167 // 64 - 2)  # Table 1
    assert (s.transformer.lr, s.transformer.batch, s.transformer.ema) == (1e-4, 256, 0.9999)
    assert (s.sampling.samples, s.sampling.steps, s.latent_size, s.latent.channels) == (50_000, 250, 32, 4)
    assert s.milestones == {"400K": 400_000, "1M": 1_000_000, "2M": 2_000_000, "3.25M": 3_252_963, "4M": 4_000_000}
    assert {k: (m.width, m.depth, m.heads, m.repa_depth) for k, m in s.models.items()} == {
        "B": (768, 12, 12, 4), "L": (1024, 24, 16, 8), "XL": (1152, 28, 16, 8)}  # fmt: skip
    assert s.teachers["large"].model == "vit_large_patch14_reg4_dinov2.lvd142m"


@pytest.mark.parametrize("scale", ["demo", "smoke", "cifar10", "imagenet256"])
def test_sizes_keep_their_order(scale, project):
    m = load(scale).scale.models
    weights = [12 * m[k].width ** 2 * m[k].depth for k in ("B", "L", "XL")]
    assert weights == sorted(weights)
    assert len(set(weights)) == 3


def test_unknown_scale_names_the_nearest(project):
    with pytest.raises(ConfigError, match="did you mean 'imagenet256'"):
        load("imagenet25")
