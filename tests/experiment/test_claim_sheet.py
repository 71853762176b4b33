"""A claim whose arms could not be compared, or whose rule means nothing, gets one clear line."""

from pathlib import Path

import pytest
from conftest import edit
from mistakes import names, one_line

from reals.experiment.load import load

FILE = "config/claim.yaml"
MISTAKES = [
    # file, old text, new text, what the line must say
    (FILE, "claimed: ReaLS", "claimed: Reals", "claimed: 'Reals' is none of the arms"),
    (FILE, "sit-b2-reals_1M]", "sit-b2-reals_3M]", "'sit-b2-reals_3M' is not defined; did you mean"),
    (FILE, "sit-b2-reals_400K, sit-b2-reals_1M]", "sit-b2-reals_1M]", "base has 2 evaluations, ReaLS 1"),
    (FILE, "sit-b2-reals_1M]", "sit-b2-reals_2M]", "differ in milestone; arms differ in their run alone"),
    (FILE, "sit-b2-reals_1M]", "sit-b2-reals_1M_cfg1.5]", "differ in cfg"),
    (FILE, "sit-b2-reals_400K, sit-b2-reals_1M]\n  base: [sit-b2-sd-vae_400K, sit-b2-sd-vae_1M]", "sit-b2-reals_1M, sit-b2-reals_400K]\n  base: [sit-b2-sd-vae_1M, sit-b2-sd-vae_400K]", "order them so that they ascend"),
    (FILE, "metrics: [fid]", "metrics: [fid, fid_second]", "fid_second is measured by evaluation.second, which config/scales/demo.yaml does not set"),
    (FILE, "metrics: [fid]", "metrics: [kid]", "metrics.0"),
    (FILE, "base: {mean_at_most: -0.15,", "bass: {mean_at_most: -0.15,", "'bass' is no arm to compare with (base)"),
    (FILE, "  contradicted:", "  undecided:", "is what holds where none does"),
    (FILE, "{interval_above: 0}", "{}", "set mean_at_most, interval_below or interval_above"),
    (FILE, "{interval_above: 0}", "{interval_over: 0}", "did you mean 'interval_above'?"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "says"), MISTAKES, ids=names(MISTAKES))
def test_a_mistake_gets_one_line(file, old, new, says, project):
    assert says in one_line(file, old, new)


def test_what_the_claim_compares_is_made_and_shown(project):
    assert "dit-b2-sd-vae_400K_cfg1.5" in load("demo").table_evaluations
    edit(
        Path("config/evaluations.tsv"),
        "sit-b2-control_400K\t",
        "sit-b2-control_400K_again\tsit-b2-control\t400K\tsde\t1\t-\t-\t-\tall\nsit-b2-control_400K\t",
    )
    assert "sit-b2-control_400K_again" not in load("demo").table_evaluations
    edit(Path(FILE), "sit-b2-reals_400K, ", "")
    edit(Path(FILE), "sit-b2-reals_1M]", "sit-b2-reals_400K]")
    edit(Path(FILE), "[sit-b2-sd-vae_400K, sit-b2-sd-vae_1M]", "[sit-b2-control_400K_again]")
    assert "sit-b2-control_400K_again" in load("demo").table_evaluations


def test_a_scale_without_the_file_has_no_claim(project):
    Path(FILE).unlink()
    assert load("demo").claim is None and load("cifar10").claim is not None
