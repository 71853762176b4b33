"""What tables print of a metric follows from one table."""

from typing import get_args

import pytest

from reals.experiment.metric_table import ADM_EXTRACTOR, DINOV2_EXTRACTOR, METRICS, OF_EXTRACTOR, Source, metric_name, metrics_of


def test_every_metric_but_a_setting_a_cost_or_an_interval_has_a_better_direction():
    for name, metric in METRICS.items():
        assert (metric.better is None) == (metric.source == "settings" or metric.counted or name == "fid_interval"), name
        assert metric.arrow == {"lower": "↓", "higher": "↑", None: ""}[metric.better]


def test_the_metrics_of_a_table_are_those_of_its_source():
    of_source = {source: metrics_of(source) for source in get_args(Source)}
    assert (
        "fid" in of_source["evaluation"] and {"rfid", "psnr"} <= set(of_source["autoencoder"]) and "lr" in of_source["settings"]
    )
    for source, names in of_source.items():
        assert names == tuple(name for name in METRICS if name in names), "in the table's order"
        assert all(METRICS[name].source == source for name in names)
    assert sorted(name for names in of_source.values() for name in names) == sorted(METRICS), "each in one, none left out"


def test_metric_names_carry_their_extractor():
    assert metric_name("fid", ADM_EXTRACTOR) == "FID"
    assert metric_name("fid", DINOV2_EXTRACTOR) == "FD-DINOv2" and metric_name("kid", DINOV2_EXTRACTOR) != "KID"
    assert metric_name("sfid", "digits-cnn") == "sFID (digits-cnn)"
    assert {"fid", "rfid"} <= set(OF_EXTRACTOR) and not {"fid_second", "psnr"} & set(OF_EXTRACTOR)
    for name in ("FID", "psnr"):
        with pytest.raises(ValueError, match=f"metric: got '{name}', expected one of {', '.join(OF_EXTRACTOR)}$"):
            metric_name(name, ADM_EXTRACTOR)
