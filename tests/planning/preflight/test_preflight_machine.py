"""The machine looked at before the first job: disk, file system, clock, GPUs and SLURM, each broken in turn."""

import os
import sys
from pathlib import Path

import pytest
import torch
from conftest import edit

from reals.experiment.load import load
from reals.experiment.reading import ConfigError
from reals.experiment.registry import Registry
from reals.machine import cuda, dispatch, site
from reals.planning.cost import Costs
from reals.planning.preflight import machine


def test_disk_and_file_system_and_clock(project):
    registry = Registry(load("smoke"))
    assert "GB are still needed" in machine.disk(Costs(registry))
    assert "locks" in machine.file_system(registry.root)
    assert "agrees" in machine.clock(registry.root)
    assert not list(registry.root.iterdir())
    edit(project / "config/scales/smoke.yaml", "samples: 24", "samples: 2400000000")
    with pytest.raises(ConfigError, match=r"disk: .* are still needed; free some"):
        machine.disk(Costs(Registry(load("smoke"))))


def test_compiling_needs_a_compiler(tmp_path, monkeypatch):
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="there is none here; install or load gcc"):
        machine.compiler()
    (tmp_path / "gcc").touch(0o755)
    assert str(tmp_path / "gcc") in machine.compiler()


def test_files_from_another_time(tmp_path):
    import time

    class Slow(type(tmp_path)):
        """A folder whose server's clock is an hour behind."""

        def touch(self, *args, **kwargs):
            super().touch(*args, **kwargs)
            os.utime(self, (time.time() - 3600,) * 2)

    with pytest.raises(ConfigError, match="3600 s off"):
        machine.clock(Slow(tmp_path))


def test_a_file_where_the_results_should_be(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(OSError, match="results"):
        machine.file_system(tmp_path / "results" / "x")


def fake_tool(folder: Path, name: str, prints: str, code: int = 0) -> None:
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!{sys.executable}\nimport sys\nsys.{'stderr' if code else 'stdout'}.write({prints!r})\nsys.exit({code})\n")
    path.chmod(0o755)


@pytest.fixture
def asking(project, monkeypatch) -> Registry:
    """A registry that asks for 8 GPUs and two days a job, with no tools but those a test makes."""
    monkeypatch.setenv("PATH", str(project / "bin"))
    return Registry(load("imagenet256"))


PARTITIONS = "gpu*|up|2-00:00:00|32|500000|gpu:h100:8(S:0-1)|4\ncpu|up|infinite|64|250000|(null)|9\n"


@pytest.mark.parametrize(
    ("prints", "code", "partition", "says"),
    [
        (None, 0, None, "none here"),
        (PARTITIONS, 0, None, "the default partition: 4 nodes with up to 8 GPUs, limit 2880 minutes"),
        (PARTITIONS, 0, "cpu", "FIX resources.autoencoder.gpu 8: no node of partition cpu has so many GPUs"),
        (PARTITIONS, 0, "gpus", "FIX --partition: partition: no partition 'gpus' here; known: cpu, gpu"),
        (PARTITIONS.replace("|up|", "|down|"), 0, "gpu", "FIX --partition: partition: partition gpu is down; name another"),
        (
            "slurm_load_partitions: Unable to contact slurm controller\n",
            1,
            None,
            "FIX SLURM: installed, but sinfo fails (slurm_load_partitions: Unable",
        ),
    ],
)
def test_slurm(asking, prints, code, partition, says):
    if prints is not None:
        fake_tool(Path(), "sinfo", prints, code)
        fake_tool(Path(), "sbatch", "")
    here = site.load(Path("config/site.yaml")).model_copy(update={"partition": partition, "gpu_partition": partition})
    where = "--partition" if partition else "config/site.yaml"
    if says.startswith("FIX "):
        with pytest.raises(ConfigError) as error:
            machine.slurm(asking, here, where)
        assert str(error.value).startswith(says.removeprefix("FIX "))
    else:
        assert machine.slurm(asking, here, where).startswith(says)


def test_gpus(asking, monkeypatch):
    with pytest.raises(ConfigError, match=r"none .no nvidia-smi. and no SLURM; scale 'imagenet256' asks for up to 8 a job"):
        machine.gpus(asking)
    fake_tool(Path(), "sinfo", PARTITIONS)
    monkeypatch.setattr(cuda, "built_for", lambda: "13.0")
    assert machine.gpus(asking) == "none here; jobs get theirs from SLURM, on nodes with NVIDIA driver 580 or newer (CUDA 13.0)"
    assert machine.gpus(Registry(load("demo"))) == "none here; this scale asks for none"
    fake_tool(Path(), "nvidia-smi", "NVIDIA-SMI has failed\n", 9)
    with pytest.raises(ConfigError, match=r"nvidia-smi fails .NVIDIA-SMI has failed.; mend the driver"):
        machine.gpus(asking)


CARD = "NVIDIA H100 80GB HBM3, 81559 MiB, 580.65.06, Disabled\n"


@pytest.mark.parametrize(
    ("prints", "visible", "says"),
    [
        (CARD * 8, "0,1,2,3,4,5,6,7", "8 x NVIDIA H100 80GB HBM3, 81559 MiB, driver 580.65.06"),
        (CARD * 2, "0,1", "; jobs that ask for 8 get 2"),
        (CARD * 8, "3", "; jobs that ask for 8 get 1"),
        (CARD.replace("Disabled", "Enabled"), "0", "; sliced by MIG: set CUDA_VISIBLE_DEVICES=MIG-...,MIG-... to the slices"),
        (CARD.replace("Disabled", "Enabled"), "MIG-a,MIG-b", "; jobs that ask for 8 get 1"),
        (CARD, "", "but CUDA_VISIBLE_DEVICES= hides them, and jobs would run on the CPU; unset it"),
        (CARD, "-1", "but CUDA_VISIBLE_DEVICES=-1 hides them"),
        (CARD.replace("580.65.06", "535.104.05"), "0", "driver 535.104.05 is too old for this PyTorch: CUDA 13.0 needs 580"),
    ],
)
def test_the_gpus_of_this_machine(asking, monkeypatch, prints, visible, says):
    fake_tool(Path(), "nvidia-smi", prints)
    monkeypatch.setenv(dispatch.VISIBLE, visible)
    monkeypatch.setattr(cuda, "built_for", lambda: "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    if "too old" in says or "hides" in says:
        with pytest.raises(ConfigError, match=says):
            machine.gpus(asking)
    else:
        assert says in machine.gpus(asking)
    assert "; this scale asks for none, and its jobs run on the CPU" in machine.gpus(Registry(load("demo")))
