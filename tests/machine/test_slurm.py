"""What SLURM says is understood: its partitions, our jobs in its queue, and what it would refuse."""

import os
from pathlib import Path

import pytest
from conftest import REPOSITORY

from reals.experiment.engine import Resources
from reals.experiment.reading import ConfigError
from reals.machine import site, slurm


def made(**changes) -> site.Site:
    return site.load(REPOSITORY / "config/site.yaml").model_copy(update=changes)


def cluster(tmp_path: Path, monkeypatch, sinfo: str = "", **others: str) -> None:
    """SLURM's commands as scripts that print what they are given, in place of a cluster with other partitions than ours."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"sinfo": sinfo, "sbatch": "", **others}.items():
        (folder / name).write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


SINFO = (
    "cpu*|up|1-00:00:00|64|250000|(null)|10\ngpu|up|2-00:00:00|32+|500000|gpu:a100:4(S:0-1)|6\n"
    "gpu|up|2-00:00:00|32|500000|gpu:h100:8|1\nmig|up|2-00:00:00|32|500000|gpu:nvidia-h100:1,gpu:1g.10gb:14|2\n"
    "old|down|1:00:00|32|250000|(null)|2"
)


@pytest.mark.parametrize(
    ("changes", "asked", "says"),
    [
        ({}, Resources(), None),
        ({"gpu_partition": "gpu"}, Resources(gpu=8), None),
        ({"gpu_partition": "gpu", "gpu_type": "a100"}, Resources(gpu=4, nodes=6), None),
        ({"partition": "cpu,gpu"}, Resources(threads=64), None),
        ({"gpu_partition": "mig", "gpu_type": "nvidia-h100"}, Resources(gpu=1), None),
        ({"gpu_partition": "mig", "gpu_type": "1g.10gb"}, Resources(gpu=1), None),
        ({"gpu_partition": "mig"}, Resources(gpu=2), "no node of partition mig has so many GPUs (most: 1)"),
        (
            {"gpu_partition": "mig", "gpu_type": "1g.10gb"},
            Resources(gpu=2),
            "resources.rule.gpu 2: a job can use one MIG slice (site.yaml: gpu_type 1g.10gb)",
        ),
        ({"partition": "cup"}, Resources(), "partition: no partition 'cup' here; known: cpu, gpu, mig, old"),
        (
            {"gpu_partition": "gpu", "gpu_type": "a100"},
            Resources(gpu=8),
            "no node of partition gpu has so many GPUs of type a100",
        ),
        ({"partition": "old"}, Resources(), "site.yaml: partition: partition old is down; name another (cpu, gpu, mig, old)"),
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
    here = made(**changes)
    if says is None:
        slurm.check(here, "site.yaml", {"rule": asked})
    else:
        with pytest.raises(ConfigError) as caught:
            slurm.check(here, "site.yaml", {"rule": asked})
        assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.process  # the executor looks for SLURM's commands when it is imported
@pytest.mark.parametrize(("options", "what"), [("--gres=gpu:h100:8", "generic resources"), ("--exclusive --time=5", "runtime")])
def test_options_that_snakemakes_executor_sets_itself_are_refused(tmp_path, monkeypatch, options, what):
    cluster(tmp_path, monkeypatch, SINFO)
    with pytest.raises(ConfigError, match=rf"site.yaml: options {options}: the {what}.* follows from the other keys"):
        slurm.check(made(options=options), "site.yaml", {"rule": Resources()})


def test_a_machine_without_slurm_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"no SLURM on this machine \(sinfo not found\); leave out --profile"):
        slurm.check(made(), "site.yaml", {})
    assert slurm.left_running(tmp_path) == []


def test_jobs_that_an_earlier_snakemake_left_are_found_by_their_folder(tmp_path, monkeypatch):
    rows = f"12|{tmp_path}|rule_transformer_wildcards_x\n13|/elsewhere|rule_sample\n14|{tmp_path}|a job of my own\n15_[1-3]|{tmp_path}|rule_sample"
    cluster(tmp_path, monkeypatch, squeue=rows)
    assert slurm.left_running(tmp_path) == ["12", "15_[1-3]"]


@pytest.mark.parametrize(
    ("text", "minutes"), [("30:00", 30), ("1-00:00:00", 1440), ("12:30:00", 750), ("infinite", float("inf"))]
)
def test_time_limits(text, minutes):
    assert slurm.minutes_of(text) == minutes


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ("allocation failure: Invalid feature specification", "Invalid feature specification"),
        ("allocation failure: Invalid qos specification", "Invalid qos specification"),
        ("sbatch: error: User's group not permitted to use this partition", "User's group not permitted to use this partition"),
        (
            "sbatch: unrecognized option '--exlusive'\nTry \"sbatch --help\" for more information",
            "unrecognized option '--exlusive'",
        ),
        ("allocation failure: Requested node configuration is not available", None),  # so it says where nodes are drained, too
        ("sbatch: error: Unable to contact slurm controller", None),  # sending the job will tell
    ],
)
def test_sbatch_has_the_last_word_where_it_is_sure(tmp_path, monkeypatch, said, refused):
    cluster(tmp_path, monkeypatch, sinfo=SINFO)
    refuse = tmp_path / "bin/sbatch"
    refuse.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{said}\nEND\nexit 1\n")
    here = made(constraint="nvlink")
    if refused is None:
        assert slurm.check(here, "site.yaml", {"sample": Resources()}).startswith("the default partition: 10 nodes")
        return
    with pytest.raises(ConfigError) as caught:
        slurm.check(here, "site.yaml", {"sample": Resources()})
    asked = "--constraint=nvlink --time=60 --mem=2000 --nodes=1 --ntasks=1 --cpus-per-task=1"
    assert str(caught.value) == f"site.yaml: SLURM refuses sample: {refused} (sbatch {asked})"


def test_sbatch_is_asked_once_for_jobs_that_are_alike(tmp_path, monkeypatch):
    cluster(tmp_path, monkeypatch, sinfo=SINFO)
    (tmp_path / "bin/sbatch").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    slurm.check(made(), "site.yaml", {"sample": Resources(), "evaluate": Resources(), "data": Resources(threads=4)})
    one, two = (tmp_path / "asked").read_text().splitlines()
    assert one.startswith("--test-only --time=60 ") and one.endswith("--cpus-per-task=1 --wrap true")
    assert "--cpus-per-task=4" in two
