"""The machine looked at before the first job: disk, file system, clock, GPUs and SLURM, each broken in turn."""

import os
import sys
from pathlib import Path

import pytest
from conftest import edit

from reals.experiment.load import load
from reals.experiment.reading import ConfigError
from reals.experiment.registry import Registry
from reals.machine import site
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
        ("slurm_load_partitions: Unable to contact slurm controller\n", 1, None, "installed, but sinfo fails"),
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


def test_gpus(asking):
    with pytest.raises(ConfigError, match=r"none .no nvidia-smi. and no SLURM; scale 'imagenet256' asks for up to 8 a job"):
        machine.gpus(asking)
    fake_tool(Path(), "sinfo", PARTITIONS)
    assert machine.gpus(asking) == "none here; jobs get theirs from SLURM"
    assert machine.gpus(Registry(load("demo"))) == "none here; this scale asks for none"
    fake_tool(Path(), "nvidia-smi", "NVIDIA-SMI has failed\n", 9)
    with pytest.raises(ConfigError, match=r"nvidia-smi fails .NVIDIA-SMI has failed.; mend the driver"):
        machine.gpus(asking)
