"""The site file: every mistake is one line; what is asked of SLURM is what the scale says."""

import os
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY

from reals.experiment.engine import Resources
from reals.experiment.reading import ConfigError
from reals.machine import site

SHIPPED = REPOSITORY / "config/site.yaml"


def made(tmp_path: Path, **changes) -> site.Site:
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(SHIPPED.read_text()) | changes))
    return site.load(path)


def cluster(tmp_path: Path, monkeypatch, sinfo: str = "", **others: str) -> None:
    """SLURM's commands as scripts that print what they are given, in place of a cluster with other partitions than ours."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"sinfo": sinfo, **others}.items():
        (folder / name).write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_the_shipped_file_is_whole_and_explains_every_key():
    site.load(SHIPPED)
    lines = SHIPPED.read_text().splitlines()
    for key in site.Site.model_fields:
        assert any(line.startswith(f"{key}: ") and "#" in line for line in lines), key


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("partition: null         #", "partitoin: null  #", "unknown key; did you mean 'partition'?"),
        ("max_runtime: 2880", "max_runtime: two days", "max_runtime: "),
        ("scratch: null", "# scratch: null", "scratch: Field required"),
        ("account: null", "account: [", "not valid YAML"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_file(tmp_path, old, new, says):
    path = tmp_path / "site.yaml"
    text = SHIPPED.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        site.load(path)
    assert str(path) in str(caught.value) and says in str(caught.value) and "\n" not in str(caught.value)


def test_one_node_and_several_ask_in_their_own_way(tmp_path):
    here = made(tmp_path, gpu_type="a100", account="paper", gpu_partition="gpu", options="--exclusive", max_runtime=300)
    one = here.request(Resources(gpu=8, threads=32, runtime=100))
    assert {k: one[k] for k in ("nodes", "gpu", "gpu_model", "slurm_account", "slurm_partition", "slurm_extra")} == {
        "nodes": 1, "gpu": 8, "gpu_model": "a100", "slurm_account": "paper", "slurm_partition": "gpu", "slurm_extra": "--exclusive",
    }  # fmt: skip
    assert not {"mpi", "gres", "qos"} & set(one)
    two = here.request(Resources(nodes=2, gpu=8, threads=32))
    assert (two["mpi"], two["tasks"], two["gres"], two["gpu"]) == ("srun", 2, "gpu:a100:8", 0)
    assert two["slurm_extra"] == "--ntasks-per-node=1 --exclusive"
    assert [one["runtime"](None, attempt) for attempt in (1, 2, 3, 4)] == [100, 200, 300, 300]
    none = here.request(Resources())
    assert none["gpu"] == 0 and not {"gpu_model", "slurm_partition"} & set(none)


SINFO = (
    "cpu*|up|1-00:00:00|64|250000|(null)|10\ngpu|up|2-00:00:00|32+|500000|gpu:a100:4(S:0-1)|6\n"
    "gpu|up|2-00:00:00|32|500000|gpu:h100:8|1\nold|down|1:00:00|32|250000|(null)|2"
)


@pytest.mark.parametrize(
    ("changes", "asked", "says"),
    [
        ({}, Resources(), None),
        ({"gpu_partition": "gpu"}, Resources(gpu=8), None),
        ({"gpu_partition": "gpu", "gpu_type": "a100"}, Resources(gpu=4, nodes=6), None),
        ({"partition": "cpu,gpu"}, Resources(threads=64), None),
        ({"partition": "cup"}, Resources(), "partition: no partition 'cup' here; known: cpu, gpu, old"),
        (
            {"gpu_partition": "gpu", "gpu_type": "a100"},
            Resources(gpu=8),
            "no node of partition gpu has so many GPUs of type a100",
        ),
        ({"partition": "old"}, Resources(), "site.yaml: partition: partition old is down; name another (cpu, gpu, old)"),
        ({"gpu_partition": "gpu", "gpu_type": "h100"}, Resources(gpu=8, nodes=2), "partition gpu has 1 such nodes"),
        ({}, Resources(gpu=1), "no node of the default partition has so many GPUs (most: 0)"),
        ({}, Resources(runtime=1500), "rule asks for 1500 minutes, the default partition allows 1440"),
        ({}, Resources(mem_mb=300000), "300000 mem_mb asked for, the nodes of the default partition have 250000"),
        ({"account": "theirs"}, Resources(), "account 'theirs' is not yours; yours: ours, paper"),
        ({"account": "ours"}, Resources(), None),
    ],
)
def test_what_this_cluster_cannot_give_is_said_before_anything_is_sent(tmp_path, monkeypatch, changes, asked, says):
    cluster(tmp_path, monkeypatch, SINFO, sacctmgr="paper\nours")
    here = made(tmp_path, **changes)
    if says is None:
        site.check(here, "site.yaml", {"rule": asked})
    else:
        with pytest.raises(ConfigError) as caught:
            site.check(here, "site.yaml", {"rule": asked})
        assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_machine_without_slurm_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"no SLURM on this machine \(sinfo not found\); leave out --profile"):
        site.check(made(tmp_path), "site.yaml", {})
    assert site.left_running(tmp_path) == []


def test_jobs_that_an_earlier_snakemake_left_are_found_by_their_folder(tmp_path, monkeypatch):
    rows = f"12|{tmp_path}|rule_transformer_wildcards_x\n13|/elsewhere|rule_sample\n14|{tmp_path}|a job of my own\n15_[1-3]|{tmp_path}|rule_sample"
    cluster(tmp_path, monkeypatch, squeue=rows)
    assert site.left_running(tmp_path) == ["12", "15_[1-3]"]


@pytest.mark.parametrize(
    ("text", "minutes"), [("30:00", 30), ("1-00:00:00", 1440), ("12:30:00", 750), ("infinite", float("inf"))]
)
def test_time_limits(text, minutes):
    assert site._minutes(text) == minutes
