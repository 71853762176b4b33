"""What does not hold between sheets, scale and paper.yaml gets one clear line."""

from pathlib import Path

import pytest
from conftest import edit
from mistakes import names, one_line

from reals.experiment.load import load
from reals.experiment.reading import ConfigError

MISTAKES = [
    # file, old text, new text, what the line must say
    ("config/scales/demo.yaml", "sampling: {steps: 16", "sampling: {steps: 1200", "DiT's chain has 1000"),
    ("config/runs.tsv", "dit-b2-sd-vae\tDiT-B/2\tsd-vae", "dit-b2-sd-vae\tDiT-B/2\tsd-vea", "did you mean 'sd-vae'?"),
    ("config/runs.tsv", "400K,1M,2M", "1M,400K,2M", "must ascend"),
    ("config/runs.tsv", "400K,1M,2M", "400K,1M,7M", "'7M' is not defined"),
    ("config/autoencoders.tsv", "reals\tsd-vae", "reals\treals", "circle"),
    ("config/evaluations.tsv", "sit-b2-sd-vae_400K\tsit-b2-sd-vae\t400K\tsde", "sit-b2-sd-vae_400K\tsit-b2-sd-vae\t2M\tsde", "milestone '2M'"),
    ("config/evaluations.tsv", "400K\tddpm\t1\t", "400K\tsde\t1\t", "DiT takes ddpm"),
    ("config/tables/table03.tsv", "\tsit-b2-reals_1M\t", "\tsit-b2-reals_5M\t", "'sit-b2-reals_5M' is not defined"),
    ("config/figures.yaml", "sd-vae", "sd-vea", "did you mean 'sd-vae'"),
    ("config/figures.yaml", "    - sit-b2-reals-kl0_400K\n", "    - sit-b2-sd-vae_400K\n", "figure5: sit-b2-sd-vae_400K is of autoencoder 'sd-vae', which has no lambda_k"),
    ("config/figures.yaml", "    - sit-b2-reals-kl0_400K\n", "    - sit-b2-reals-kl1e-5_400K\n", "figure5: lambda_k is 2e-06 at sit-b2-reals-kl2e-6_400K after 1e-05; order them"),
    ("config/figures.yaml", "    - sit-b2-reals-kl0_400K\n", "    - sit-b2-control_400K\n    - sit-b2-reals_400K\n", "figure5: lambda_k is 2e-05 at sit-b2-reals_400K after 2e-05"),
    ("config/evaluations.tsv", "sit-b2-sd-vae\t400K\tsde", "sit-b2-sd-vae\t400K\tddim", "SiT takes sde, heun-sde, ode, euler, dopri5"),
    ("config/evaluations.tsv", "sit-b2-sd-vae\t400K\tsde", "sit-b2-sd-vae\t400K\tsde:form=SBDM", "infinite at t = 0"),
    ("config/paper.yaml", "label_dropout: 0.1", "label_dropout: 0", "guidance (cfg 1.5) needs a null class: transformer.label_dropout in paper.yaml is 0"),
    ("config/paper.yaml", "learn_sigma: true", "learn_sigma: false", "ddpm samples with learned variances: transformer.learn_sigma in paper.yaml is false"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "says"), MISTAKES, ids=names(MISTAKES))
def test_a_mistake_gets_one_line(file, old, new, says, project):
    assert says in one_line(file, old, new)


def test_a_latent_that_cannot_be_scaled_has_no_equivariance(project):
    """Whatever leaves no smaller side: one cell, one token of several cells, a smallest scale close to 1."""
    edit(Path("config/paper.yaml"), "smallest: 0.25", "smallest: 0.9")
    with pytest.raises(
        ConfigError, match=r"8 cells a side, whole tokens of 1\) have no smaller side from 0\.9 of that on; write '-'"
    ):
        load("demo")


@pytest.mark.parametrize(
    ("scale", "setting", "says"),
    [("cifar10", "  second: {", r"arms: fid_second is measured by evaluation.second, which config/scales/cifar10.yaml does not set"),
     ("imagenet100", "  intervals: true", r"arms: fid_interval is measured where evaluation.intervals is true; set it in config")],
)  # fmt: skip
def test_a_table_shows_what_its_scale_measures(scale, setting, says, project):
    edit(Path(f"config/scales/{scale}.yaml"), setting, f"# {setting}")
    with pytest.raises(ConfigError, match=says):
        load(scale)


def test_a_claim_rests_on_what_its_scale_measures(project):
    edit(Path("config/sheets/cifar10/claim.yaml"), "fid_second]", "fid_second, fd_dinov2]")
    with pytest.raises(
        ConfigError, match=r"claim.yaml: metrics: fd_dinov2 is measured by evaluation.fd_dinov2, which .* does not set"
    ):
        load("cifar10")


def test_heun_needs_an_even_number_of_the_scales_evaluations(project):
    edit(Path("config/evaluations.tsv"), "sit-b2-control\t400K\tsde", "sit-b2-control\t400K\tode")
    load("demo")
    edit(Path("config/scales/demo.yaml"), "sampling: {steps: 16", "sampling: {steps: 21")
    with pytest.raises(ConfigError, match="Heun needs two a step; write ode:steps=22"):
        load("demo")
    edit(Path("config/scales/demo.yaml"), "sampling: {steps: 21", "sampling: {steps: 2")
    with pytest.raises(ConfigError, match="write ode:steps=4"):
        load("demo")
