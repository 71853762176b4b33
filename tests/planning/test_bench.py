"""What `reals measure` finds feeds the plan and the logs."""

import time
from dataclasses import replace

import pytest
import torch

from reals import files
from reals.cli.main import main
from reals.data.readers import Latents
from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.method.models.transformer import TransformerConfig
from reals.planning import bench, rates
from reals.planning.cost import Costs
from reals.planning.supply import Supply
from reals.planning.timings import Timings


def test_a_device_that_is_slow_at_a_type_is_not_kept_busy_with_large_products(monkeypatch):
    monkeypatch.setattr(bench, "SQUARES", (8, 10**7))  # the second would take 400 TB
    monkeypatch.setattr(bench, "STEP_SECONDS", 0.0)
    assert bench.peak(bench.Bench(torch.device("cpu"), 1, 0.1), "fp32") > 0


@pytest.mark.slow
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
    assert set(measured) == expected | {"repa B", "autoencoder", "encoding", "decoding", "sampling teacher"}
    assert all(rate > 0 for rate in measured.values()) and str(path) in printed
    steps = stored["scales"]["smoke"]["steps"]["fp32"]
    reading = {kind for kind, step in steps.items() if "fed_seconds" in step}
    assert reading == {kind for kind in measured if kind.split()[0] in ("transformer", "repa", "autoencoder", "encoding")}
    assert all(0 <= steps[kind]["waiting"] < 1 and steps[kind]["loader_images_per_second"] > 0 for kind in reading)
    assert stored["scales"]["smoke"]["read"].keys() == {"images", "latents", "features"} and "images read: stand-ins" in printed
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
    files.write_json(rates.measured_path(device), {"device": device, "threads": 1, "peak_tflops": {"fp32": 0.25}, "scales": {}})
    expected = 3 * flops.transformer_flops(config_) * 32 / (0.5 * 2 * 0.25e12)
    assert utilisation(config_, 32, "fp32", 2, 0.5) == pytest.approx(expected)
    assert utilisation(config_, 32, "bf16", 2, 0.5) is None


def test_a_loader_that_cannot_feed_the_device_is_said_with_the_cores_it_would_take():
    slow = bench.Timing("repa B", "bf16", 32, 1e9, 0.1, bench.Feeding(0.4, 0.7, images=80.0, cores=4))
    assert slow.images == pytest.approx(320) and slow.warning is not None
    assert "4 cores feed 80 images/s, the device takes 320: 16 cores" in slow.warning
    fast = replace(slow, feeding=bench.Feeding(0.1, 0.0, images=330.0, cores=4))
    assert fast.warning is None and replace(slow, feeding=None).warning is None


@pytest.mark.slow
def test_work_that_does_not_fit_leaves_the_rest(project, monkeypatch, tmp_path):
    def full(self, *args):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Timings, "transformer", full)
    registry = Registry(load("smoke"))
    clock = bench.Bench(torch.device("cpu"), 1, 0.001)
    found = list(Timings(Costs(registry), clock, Supply(registry, tmp_path), 1e11))
    said = [line for line in found if isinstance(line, str)]
    assert said[0] == "transformer B fp32: out of memory at the batch of one device" and len(found) > len(said)


@pytest.mark.slow
def test_a_training_that_waits_for_its_data_is_seen(project, monkeypatch, tmp_path):
    registry = Registry(load("smoke"))
    supply = Supply(registry, tmp_path)
    run = next(run for run in registry.runs.values() if run.spec.repa is None)
    rows, slept = Latents.rows, 0.25  # far longer than a step, also where other tests share the cores

    def slow(self, *args):
        time.sleep(slept)
        return rows(self, *args)

    monkeypatch.setattr(Latents, "rows", slow)
    timings = Timings(Costs(registry), bench.Bench(torch.device("cpu"), None, 0.001), supply, 1e11)
    found = timings.transformer(run, "transformer B", "fp32")
    assert found.feeding.waiting > 0.5 and found.feeding.images < 21 * found.batch and found.seconds < slept
    assert found.warning
