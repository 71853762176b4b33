import numpy as np
import pytest
from drawn import text_of, width_in_inches
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from reals.report.figures import plots
from reals.report.figures.plots import Curve, Guided, Milestone, WeightPoint


@pytest.mark.slow
def test_figure5_leaves_gaps_and_orders_weights(tmp_path):
    points = [WeightPoint(0, [30.0, 34.0], 4.0), WeightPoint(2e-5, [], None), WeightPoint(1e-4, [33.0], 0.8)]
    paths = plots.fid_over_kl_weights(points, tmp_path / "figure5", fid="FID (digits-cnn)")
    assert width_in_inches(paths[1]) == pytest.approx(3.25, abs=0.01)
    plots.fid_over_kl_weights([WeightPoint(0, [], None)], tmp_path / "empty", fid="FID")
    with pytest.raises(ValueError, match="must ascend"):
        plots.fid_over_kl_weights(points[::-1], tmp_path / "figure5", fid="FID")


@pytest.mark.slow
def test_a_line_over_steps_has_a_band_where_there_are_seeds(tmp_path):
    one = {"SiT-B/2, sd-vae": [Milestone(1000, [50.0]), Milestone(4000, [30.0])]}
    three = {"SiT-B/2, sd-vae": [Milestone(1000, [40.0, 50.0, 60.0]), Milestone(4000, [29.0, 30.0, 31.0])]}
    tint = [0.2 * c + 0.8 for c in to_rgb("#0072B2")]

    def banded(lines, name) -> int:
        picture = imread(plots.fid_over_steps(lines, tmp_path / name, fid="FID")[1])[..., :3]
        return int((np.abs(picture - tint).max(-1) < 0.01).sum())

    assert banded(one, "one") < 200  # where the line fades into the page
    assert banded(three, "three") > 2000


def test_guidance_shows_scales_intervals_and_recall(tmp_path):
    points = [Guided(1, False, [30.0], [0.6]), Guided(1.5, False, [20.0, 22.0], [0.5, 0.52]), Guided(2, True, [18.0], [0.55])]
    paths = plots.guidance({"SiT-B/2, reals, 1M": points}, tmp_path / "g", fid="FID (x)", recall="Recall (x)")
    assert width_in_inches(paths[1]) == pytest.approx(6.75, abs=0.01)
    words = text_of(paths[0])
    assert "guidance scale" in words
    assert "Recall (x)" in words


def test_cost_has_a_bar_for_each_stage_in_a_fitting_unit(tmp_path):
    assert "minutes" in text_of(plots.cost({"sample": (60, 90), "train": (600, 580)}, tmp_path / "small")[0])
    assert "hours" in text_of(plots.cost({"sample": (60, 90), "train": (36000, 36000)}, tmp_path / "large")[0])


@pytest.mark.parametrize(
    ("value", "label"),
    [(0.0, "0"), (1e-4, "$10^{-4}$"), (2e-5, r"$2{\times}10^{-5}$"), (2.5e-6, r"$2.5{\times}10^{-6}$")],
)
def test_weight_labels(value, label):
    assert plots._weight(value) == label


@pytest.mark.slow
def test_curves_and_equal_input_gives_equal_bytes(tmp_path):
    panels = {
        "DiT-B/2 loss": {"sd-vae": Curve([0, 10, 20], [1.0, 0.5, 0.4]), "reals": Curve([0, 10], [1.0, 0.6])},
        "SiT-B/2 loss": {f"run {i}": Curve([0, 10], [1.0, 0.1 * i]) for i in range(1, 12)},
    }
    first = [p.read_bytes() for p in plots.curves(panels, tmp_path / "a", y_scale="log")]
    again = [p.read_bytes() for p in plots.curves(panels, tmp_path / "b", y_scale="log")]
    assert first == again
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pdf", "a.png", "b.pdf", "b.png"]
