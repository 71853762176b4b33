"""What `reals measure` finds feeds the plan and the logs."""

import pytest
import torch

from reals import files
from reals.cli.main import main
from reals.experiment.load import load
from reals.method.models.transformer import TransformerConfig
from reals.planning import bench, rates


def test_a_device_that_is_slow_at_a_type_is_not_kept_busy_with_large_products(monkeypatch):
    monkeypatch.setattr(bench, "SQUARES", (8, 10**7))  # the second would take 400 TB
    monkeypatch.setattr(bench, "STEP_SECONDS", 0.0)
    assert bench.peak(bench.Bench(torch.device("cpu"), 1, 0.1), "fp32") > 0


def test_a_measurement_feeds_the_plan(project, capsys, monkeypatch):
    monkeypatch.setattr(bench, "SQUARES", (64,))
    arguments = ["--config", "scale=smoke", "--threads", "1", "--precision", "fp32", "--seconds", "0.001"]
    assert main(["measure", *arguments]) == 0
    printed = capsys.readouterr().out
    device = rates.this_device(1)
    path = rates.measured_path(device)
    stored = files.read_json(path)
    measured = stored["scales"]["smoke"]["tflops"]["fp32"]
    sizes = {row.size for row in load("smoke").runs.values()}
    expected = {f"{kind} {size}" for kind in ("transformer", "sampling") for size in sizes}
    assert set(measured) == expected | {"autoencoder", "encoding", "sampling teacher"}
    assert all(rate > 0 for rate in measured.values()) and str(path) in printed
    assert stored["versions"]["torch"] == torch.__version__ and stored["threads"] == 1
    assert rates.peak(device, "fp32") == stored["peak_tflops"]["fp32"] * 1e12
    assert rates.peak(device, "bf16") is None and rates.peak("another", "fp32") is None
    assert main(["plan", "--config", "scale=smoke", "--per-node", "2"]) == 0
    assert f"measured {stored['date']}" in capsys.readouterr().out


def test_the_log_s_mfu_is_flops_over_the_measured_peak(project):
    from reals.planning import flops
    from reals.stages.transformer import utilisation

    config_ = TransformerConfig(16, 1, 2, 2, 4, 8, 3, learn_sigma=True)
    device = rates.this_device(torch.get_num_threads())
    assert utilisation(config_, 32, "fp32", 2, 0.5) is None
    files.write_json(rates.measured_path(device), {"device": device, "peak_tflops": {"fp32": 0.25}, "scales": {}})
    expected = 3 * flops.transformer_flops(config_) * 32 / (0.5 * 2 * 0.25e12)
    assert utilisation(config_, 32, "fp32", 2, 0.5) == pytest.approx(expected)
    assert utilisation(config_, 32, "bf16", 2, 0.5) is None
