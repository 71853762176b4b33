from dataclasses import replace

import pytest
from table_parts import COMMON, PAIR, row, seeded, sheet

from reals.experiment.metric_table import ADM_EXTRACTOR, DINOV2_EXTRACTOR
from reals.report.tables.build import build
from reals.report.tables.comma_separated import comma_separated
from reals.report.tables.model import Cell
from reals.report.tables.wording import MINUS, legend, percent, shown


@pytest.mark.parametrize(
    ("extractor", "second", "published", "line"),
    [
        ("photo-cnn", None, "1.0", "Measured: FID on features of photo-cnn. Published: on Inception's."),
        ("photo-cnn", None, None, "Measured: FID on features of photo-cnn."),
        ("photo-cnn", "deep", None, "Measured: FID on features of photo-cnn; FID (second extractor) on features of deep."),
        (
            ADM_EXTRACTOR,
            "deep",
            "1.0",
            f"Measured: FID on features of {ADM_EXTRACTOR}; FID (second extractor) on features of deep.",
        ),
        (ADM_EXTRACTOR, None, "1.0", None),
    ],
)
def test_the_legend_says_once_whose_features_each_metric_is_of(extractor, second, published, line):
    metrics = ("fid", "fid_second") if second else ("fid",)
    of = sheet(replace(row("a", "run-a"), published={"fid": published, "fid_second": None}), metrics=metrics)
    said = legend(build(of, {}, replace(COMMON, extractor=extractor, judges={"fid_second": second} if second else {})))
    assert [text for text in said if "features" in text] == ([line] if line else [])


def test_a_judge_is_named_where_it_is_not_the_metric_s_own():
    of = sheet(replace(row("a", "run-a"), published={"fid": None, "fd_dinov2": None}), metrics=("fid", "fd_dinov2"))
    said = lambda judge: [  # noqa: E731
        text
        for text in legend(build(of, {}, replace(COMMON, extractor=ADM_EXTRACTOR, judges={"fd_dinov2": judge})))
        if "features" in text
    ]
    assert said(DINOV2_EXTRACTOR) == []
    assert said("a-cnn") == [f"Measured: FID on features of {ADM_EXTRACTOR}; FD-DINOv2 on features of a-cnn."]


def test_the_interval_over_samples_is_explained_where_it_is_shown():
    of = sheet(replace(row("a", "run-a"), published={"fid": None, "fid_interval": None}), metrics=("fid", "fid_interval"))
    [line] = [text for text in legend(build(of, {}, COMMON)) if text.startswith("FID ±")]
    assert "95%" in line
    assert not any(text.startswith("FID ±") for text in legend(build(PAIR, {}, COMMON)))


def test_a_single_seed_prints_no_deviation():
    alone = build(PAIR, {("evaluation", "run-a"): seeded("run-a", 40.0)}, COMMON)
    assert shown("fid", alone.rows[0].cells[0]) == "40.00"
    assert not any("±" in line for line in legend(alone))
    assert "fid_std" not in comma_separated(alone)


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        (([40.0, 50.0, 60.0], 3), ([20.0, 20.0], 3), "over 2 to 3 seeds (more are planned) of"),
        (([40.0, 50.0, 60.0], 3), ([20.0, 20.0], 2), "over 2 to 3 seeds of"),
        (([40.0, 50.0], 3), ([20.0, 20.0], 3), "over 2 seeds (more are planned) of"),
        (([40.0, 50.0, 60.0], 3), ([20.0], 3), "over 3 seeds (more are planned) of"),
        (([40.0, 50.0, 60.0], 3), ([20.0, 20.0, 21.0], 3), "over 3 seeds of"),
    ],
)
def test_the_footnote_counts_the_seeds_and_says_where_more_are_planned(a, b, says):
    found = {name: seeded(name, *fids, planned=planned) for name, (fids, planned) in (("run-a", a), ("run-b", b))}
    [line] = [s for s in legend(build(PAIR, {("evaluation", k): v for k, v in found.items()}, COMMON)) if "±" in s]
    assert says in line and line.endswith("ΔFID that of the changes seed by seed.")


def test_the_footnote_of_autoencoders_speaks_of_no_transformer():
    autoencoders = replace(sheet(row("a", "reals"), compare=False), source="autoencoder")
    table = build(autoencoders, {("autoencoder", "reals"): seeded("reals", 1.0, 2.0, 3.0, kind="autoencoder")}, COMMON)
    [line] = [line for line in legend(table) if "±" in line]
    assert line == "±: standard deviation over 3 seeds of the autoencoder; the value is their mean."


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [("fid", 27.534, "27.53"), ("fid", 0.03124, "0.0312"), ("rfid", 0.0, "0.00"), ("kid", -1e-13, "0.00000000"), ("sc_crop", -0.0004, "0.00"),
     ("precision", 0.5678, "0.57"), ("ssim", 0.7684, "0.768"), ("lr", "1e-3", "1e-3")],
)  # fmt: skip
def test_shown(metric, value, text):
    assert shown(metric, Cell(None, value, "measured")) == text


def test_a_change_of_nothing_has_no_sign_of_its_own():
    assert percent(-0.04) == percent(0.04) == "+0.0" and percent(-0.06) == f"{MINUS}0.1"
