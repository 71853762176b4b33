"""The script of the first hour on a GPU: every item runs, here on a CPU, and a limit or a failure costs one item and not the rest."""

import importlib.util
import sys
import time
from types import SimpleNamespace

import pytest
import yaml
from conftest import REPOSITORY

from reals import files
from reals.planning import rates

spec = importlib.util.spec_from_file_location("gpu_hour", REPOSITORY / "benchmarks/gpu_hour.py")
gpu_hour = importlib.util.module_from_spec(spec)


@pytest.fixture(scope="module", autouse=True)
def loaded():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "gpu_hour", gpu_hour)  # dataclasses look their module up
        spec.loader.exec_module(gpu_hour)
        yield


def hour_of(**items):
    return SimpleNamespace(name="NVIDIA H200", tiny=True, items=lambda: iter(items.items()))


def row(kind, precision, tflops):
    return {"kind": kind, "precision": precision, "compiled": True, "deterministic": False, "batch": 32, "seconds": 0.1,
            "tflops": tflops, "of_peak": 0.4, "peak_gb": 20.0}  # fmt: skip


def test_the_limit_leaves_what_was_found_and_says_what_was_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_hour, "CLOSING", 0.0)
    out = tmp_path / "hour.json"

    def endless():
        assert files.read_json(out)["items"]["first"]["rows"]  # is in the file before the next begins
        time.sleep(30)

    hour = hour_of(first=lambda: [row("transformer XL", "bf16", 300.0)], second=endless, third=lambda: [])
    gpu_hour.measured(hour, 0.3, out)
    items = files.read_json(out)["items"]
    assert items["first"]["rows"][0]["tflops"] == 300.0
    assert "limit" in items["second"]["skipped"] and "limit" in items["third"]["skipped"]
    assert "transformer XL" in capsys.readouterr().out


def test_an_item_that_fails_is_skipped_with_its_reason(tmp_path):
    def full():
        raise RuntimeError("CUDA out of memory")

    hour = hour_of(first=full, second=lambda: [row("autoencoder", "bf16", 1.0)])
    items = gpu_hour.measured(hour, 60, tmp_path / "hour.json")["items"]
    assert items["first"]["skipped"] == "RuntimeError: CUDA out of memory" and items["second"]["rows"]


def test_the_rates_block_is_read_by_the_plan(tmp_path, monkeypatch):
    found = [row(kind, "bf16", value) for kind, value in (("transformer XL", 400.0), ("transformer XL", 380.0), ("sampling XL", 390.0),
                                                         ("autoencoder", 150.0), ("encoding", 170.0), ("decoding", 500.0))]  # fmt: skip
    found.append(row("transformer XL", "tf32", 100.0))
    record = {"device": "NVIDIA H200", "date": "2026-12-01", "versions": {"torch": "2", "code": "c"},
              "items": {"peak": {"rows": [{"precision": "bf16", "tflops": 700.0}]}, "x": {"rows": found}}}  # fmt: skip
    sheet = tmp_path / "rates.yaml"
    sheet.write_text(gpu_hour.rates_block(record, "h200", {"bf16": 989.0}))
    monkeypatch.chdir(tmp_path)
    loaded = rates.load("h200", "imagenet256", sheet)
    assert loaded.rate(rates.Kind("transformer XL", "bf16")) == 400e12 and loaded.peaks["bf16"] == 989e12
    assert set(yaml.safe_load(sheet.read_text())["h200"]) == {"device", "bf16"}
    assert any("goal 50%: reached" in line for line in gpu_hour.goals(record))


@pytest.mark.slow
def test_beside_a_gpu_s_peak_stands_the_plan_s_once_for_each_precision(project, monkeypatch):
    hour = gpu_hour.Hour(True, 0.001, project)
    hour.device = SimpleNamespace(type="cuda")
    timings = hour.timings(gpu_hour.WAYS[1])
    run = hour.run(timings, "B")
    planned = [hour._planned(timings, run, SimpleNamespace(kind="transformer B", precision=p, batch=4)) for p in ("fp32", "bf16")]
    assert all(row["planned_gb"] > 0 for row in planned)
    monkeypatch.setattr(gpu_hour, "footprint", None)  # is not asked again
    assert hour._planned(timings, run, SimpleNamespace(kind="transformer B", precision="bf16", batch=4)) == planned[1]


@pytest.mark.extra
def test_every_item_runs_on_a_cpu(project, monkeypatch):
    monkeypatch.setattr(gpu_hour, "selftest", lambda quick: iter(()))  # has tests of its own
    gpu_hour.main(["--tiny", "--rates", "--out", str(project / "hour.json")])
    items = files.read_json(project / "hour.json")["items"]
    assert [name for name, item in items.items() if "skipped" in item] == []
