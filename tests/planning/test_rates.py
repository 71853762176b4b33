"""Rates of devices: which stands in for which, and a table with a hole."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from reals import files
from reals.cli.main import main
from reals.experiment.load import load
from reals.experiment.reading import ConfigError
from reals.planning import rates
from reals.planning.rates import TEACHER, Kind

RATES = rates.Rates("a device", "a test", {}, {"fp32": dict.fromkeys(rates.KINDS, 1e15)})


def test_a_size_that_was_not_measured_is_not_taken_for_a_teacher():
    measured = {"transformer B": 3e12, "sampling B": 2e12, TEACHER: 1e12}
    found = replace(RATES, by_precision={"bf16": measured})
    for work, rate in (("sampling XL", 2e12), ("transformer XL", 3e12), (TEACHER, 1e12)):
        assert found.rate(Kind(work, "bf16")) == rate and found.stand_in(Kind(work, "bf16")) is None
    assert replace(RATES, by_precision={"bf16": {"sampling B": 2e12}}).rate(Kind(TEACHER, "bf16")) == 2e12
    with pytest.raises(ConfigError, match="none for 'sampling XL bf16'; run `reals measure` again"):
        replace(RATES, by_precision={"bf16": {TEACHER: 1e12}}).rate(Kind("sampling XL", "bf16"))


def test_a_precision_without_a_rate_is_derived_by_the_peaks_and_says_so():
    peaks, measured = {"fp32": 60e12, "bf16": 900e12}, {"bf16": {"transformer B": 300e12}}
    found = replace(RATES, peaks=peaks, by_precision=measured)
    assert found.rate(Kind("transformer B", "fp32")) == pytest.approx(20e12)
    assert found.stand_in(Kind("transformer B", "fp32")) == "bf16"
    assert found.rate(Kind("transformer B", "fp16")) == 300e12 and found.stand_in(Kind("transformer B", "fp16")) is None
    with pytest.raises(ConfigError, match="none for 'transformer B tf32'; run `reals measure` again"):
        found.rate(Kind("transformer B", "tf32"))  # no peak to compare


def test_tf32_is_fp32_on_a_cpu():
    cpu = replace(RATES, threads=2)
    assert cpu.rate(Kind("encoding", "tf32")) == 1e15 and cpu.stand_in(Kind("encoding", "tf32")) is None


def test_what_was_measured_before_is_read(project):
    path = rates.measured_path("NVIDIA H100 80GB HBM3")
    measured = {"bf16": {"transformer B": 310}, "tf32": {"transformer B": 120, "encoding": 100}}
    files.write_json(path, {"device": "NVIDIA H100 80GB HBM3", "threads": None, "peak_tflops": {"fp32": 50, "tf32": 400, "bf16": 700},
                            "scales": {"imagenet256": {"date": "x", "tflops": measured}}})  # fmt: skip
    found = rates.load("h100", "imagenet256", Path("config/rates.yaml"))
    assert found.source == f"measured x, {path}"
    assert found.rate(Kind("transformer B", "bf16")) == pytest.approx(310e12)
    assert found.rate(Kind("encoding", "tf32")) == pytest.approx(100e12)
    assert found.rate(Kind("encoding", "fp32")) == pytest.approx(100e12 * 50 / 400)


@pytest.mark.parametrize("content", ["{half", "[]", '{"device": "x"}'])
def test_a_damaged_measurement_is_named_by_the_plan_and_ends_no_training(project, content):
    path = rates.measured_path("NVIDIA Odd")
    files.write_text(path, content)
    assert rates.peak("NVIDIA Odd", "bf16") is None
    with pytest.raises(ConfigError, match=r"nvidia-odd\.json: not what `reals measure` writes; delete it"):
        rates.load("NVIDIA Odd", "demo", Path("config/rates.yaml"))


def test_a_table_of_rates_with_a_hole(project, capsys):
    path = project / "config/rates.yaml"
    path.write_text(path.read_text().replace("sampling: 120, ", ""))
    assert main(["plan", "--gpu", "a100"]) == 2
    assert "a100: bf16: needs a number of TFLOP/s for sampling" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["a100", "h100", "h200"])
def test_shipped_rates_are_below_their_peaks_and_rise_from_fp32_to_bf16(project, device):
    found = rates.load(device, "imagenet256", Path("config/rates.yaml"))
    for work in rates.KINDS:
        each = [found.rate(Kind(work, precision)) for precision in ("fp32", "tf32", "bf16")]
        assert each == sorted(each)
        assert all(rate < found.peaks[precision] for precision, rate in zip(("fp32", "tf32", "bf16"), each, strict=True))


def test_where_jobs_ask_for_no_gpu_the_device_is_the_cpu(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho NVIDIA H200\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    named = rates.this_device.__wrapped__
    assert named(2) == "NVIDIA H200" and named(2, gpu=False).endswith(", 2 threads")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as in a job that asks for none
    assert named(2).endswith(", 2 threads")
    assert [rates.on_gpus(load(scale).scale) for scale in ("demo", "imagenet256")] == [False, True]
