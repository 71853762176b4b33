"""What tables print of a metric follows from one table."""

import pytest

from reals.experiment.metric_table import ADM_EXTRACTOR, METRICS, metric_name, metrics_of


def test_every_metric_but_a_setting_has_a_better_direction():
    for name, metric in METRICS.items():
        assert (metric.better is None) == (metric.source == "settings"), name
        assert metric.arrow == {"lower": "↓", "higher": "↑", None: ""}[metric.better]


def test_the_metrics_of_a_table_are_those_of_its_source():
    assert metrics_of("evaluation") == ("fid", "fid_second", "sfid", "is", "precision", "recall", "kid")
    assert metrics_of("autoencoder")[:2] == ("rfid", "psnr")
    assert set(metrics_of("evaluation") + metrics_of("autoencoder") + metrics_of("settings")) == set(METRICS)


def test_metric_names_carry_their_extractor():
    assert metric_name("fid", ADM_EXTRACTOR) == "FID"
    assert metric_name("sfid", "digits-cnn") == "sFID (digits-cnn)"
    with pytest.raises(ValueError, match="metric: got 'FID', expected one of fid, sfid, is, precision, recall, kid, rfid"):
        metric_name("FID", ADM_EXTRACTOR)
