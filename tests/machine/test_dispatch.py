"""Processes, nodes and devices of a stage: what is started where, and that no two jobs share a GPU."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY

from reals.machine import dispatch, restarts, signals

ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "CUDA_", "REALS_"))}
ENVIRONMENT["PYTHONPATH"] = str(REPOSITORY / "src")


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "reals.machine.dispatch", *arguments]
    told = ENVIRONMENT | {"TMPDIR": str(folder)} | environment
    return subprocess.Popen(command, cwd=REPOSITORY, env=told, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stand_in(folder: Path, seconds: float = 0.0) -> str:
    """A program in the interpreter's place that notes when and with what it ran."""
    path = folder / "stand-in"
    notes = folder / "notes.jsonl"
    path.write_text(
        f"#!{sys.executable}\nimport json, os, sys, time\nbegan = time.time()\ntime.sleep({seconds})\n"
        "said = {k: os.environ.get(k) for k in ('CUDA_VISIBLE_DEVICES', 'REALS_THREADS', 'REALS_STOP_AT', 'TMPDIR', 'FROM_SETUP')}\n"
        f"open({str(notes)!r}, 'a').write(json.dumps([began, time.time(), sys.argv[1:], said]) + '\\n')\n"
    )
    path.chmod(0o755)
    return str(path)


def notes(folder: Path) -> list:
    return [json.loads(line) for line in (folder / "notes.jsonl").read_text().splitlines()]


def test_visible_gpus_are_those_the_environment_names():
    assert dispatch.visible_gpus({"CUDA_VISIBLE_DEVICES": "3, 5"}) == ["3", "5"]
    assert dispatch.visible_gpus({"CUDA_VISIBLE_DEVICES": "0, 0,1"}) == ["0", "1"]
    for none in ("", "-1", "NoDevFiles", "-1,0"):  # CUDA shows none from the first that is none on
        assert dispatch.visible_gpus({"CUDA_VISIBLE_DEVICES": none}) == []
    assert dispatch.visible_gpus({"CUDA_VISIBLE_DEVICES": "2,-1,3"}) == ["2"]


def test_gpus_that_pytorch_cannot_use_end_the_job(monkeypatch, tmp_path):
    monkeypatch.setenv(dispatch.GRANTED, "2")
    dispatch.refuse_idle_gpus(0, "2.0")  # no device here: a pretended node
    (tmp_path / "nvidia3").touch()
    (tmp_path / "nvidia5").touch()
    monkeypatch.setattr(dispatch, "Path", lambda *parts: tmp_path)
    assert dispatch.visible_gpus({}) == ["0", "1"]  # as CUDA counts them
    dispatch.refuse_idle_gpus(2, "2.0")
    with pytest.raises(OSError, match=r"given 2 GPUs on .*PyTorch 2\.0 can use 1"):
        dispatch.refuse_idle_gpus(1, "2.0")
    monkeypatch.setattr(dispatch.cuda, "driver", lambda: "535.104.05")
    monkeypatch.setattr(dispatch.cuda, "built_for", lambda: "13.0")
    with pytest.raises(OSError, match=r"PyTorch 2\.0 can use 0: driver 535\.104\.05 is too old for this PyTorch"):
        dispatch.refuse_idle_gpus(0, "2.0")
    monkeypatch.delenv(dispatch.GRANTED)
    dispatch.refuse_idle_gpus(0, "2.0")


@pytest.mark.process
def test_many_leases_at_once_never_share_a_gpu_and_a_large_one_is_not_starved(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from reals.machine import dispatch\n"
        "taken, held = dispatch.lease(int(sys.argv[1]), ['0', '1', '2', '3'], Path(sys.argv[2]) / 'lease')\n"
        "began = time.time(); time.sleep(0.3)\n"
        "open(sys.argv[2] + '/held', 'a').write(f'{began} {time.time()} {chr(44).join(taken)}\\n')\n"
    )
    wanted = [1, 1, 2, 4, 1, 1, 3, 1]
    jobs = [subprocess.Popen([sys.executable, "-c", program, str(n), str(tmp_path)], env=ENVIRONMENT) for n in wanted]
    assert [job.wait(timeout=60) for job in jobs] == [0] * len(wanted)
    rows = [line.split() for line in (tmp_path / "held").read_text().splitlines()]
    held = [(float(a), float(b), set(gpus.split(","))) for a, b, gpus in rows]
    assert sorted(len(gpus) for *_, gpus in held) == sorted(wanted)
    for i, (a, b, gpus) in enumerate(held):
        for c, d, others in held[:i]:
            assert b <= c or d <= a or not gpus & others


@pytest.mark.process
def test_a_killed_job_gives_its_gpus_back(tmp_path):
    program = "import sys, time; from pathlib import Path; from reals.machine import dispatch; dispatch.lease(2, ['0', '1'], Path(sys.argv[1])); print(flush=True); time.sleep(60)"
    job = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], env=ENVIRONMENT, stdout=subprocess.PIPE)
    job.stdout.readline()
    job.kill()
    job.wait()
    assert dispatch.lease(2, ["0", "1"], tmp_path)[0] == ["0", "1"]


@pytest.mark.parametrize(
    ("visible", "asked", "leased", "sees"),
    [
        ("0,1", 0, None, ""),
        ("0,1", 8, 2, "0,1"),
        ("0,1", 1, 1, "0"),
        ("MIG-a,MIG-b", 0, None, ""),
        ("MIG-a,MIG-b", 8, 1, "MIG-a"),
    ],
)
def test_a_job_sees_the_gpus_that_it_asks_for_and_no_other(monkeypatch, visible, asked, leased, sees):
    taken = []

    def lease(count, gpus, folder):
        taken.append(count)
        return gpus[:count], []

    monkeypatch.setenv(dispatch.VISIBLE, visible)
    monkeypatch.setenv("REALS_THREADS", "1")
    monkeypatch.delenv(dispatch.SITE, raising=False)
    monkeypatch.setenv(dispatch.GRANTED, "0")

    def become(*what, **how):
        raise SystemExit

    monkeypatch.setattr(dispatch, "lease", lease)
    monkeypatch.setattr(dispatch.runpy, "run_module", become)
    monkeypatch.setattr(dispatch, "_become", become)
    monkeypatch.setattr(sys, "argv", ["dispatch"])
    with pytest.raises(SystemExit):
        dispatch.main(["--gpus", str(asked), "stage", "sample", "x", "0"])
    assert taken == ([leased] if leased else [])
    assert os.environ[dispatch.VISIBLE] == sees


@pytest.mark.process
def test_one_process_on_one_machine_is_the_plain_command(tmp_path):
    done = run(tmp_path, "--gpus", "8", "--threads", "2", "--together", "ids", "--config", "scale=smoke")
    out, err = done.communicate(timeout=60)
    assert done.returncode == 0, err
    assert "sit-b2-reals" in out


@pytest.mark.process
def test_in_an_allocation_of_ones_own_gpus_are_leased_too(tmp_path):
    done = run(tmp_path, "--gpus", "1", "ids", "--config", "scale=smoke", SLURM_JOB_ID="5", CUDA_VISIBLE_DEVICES="2,3")
    out, err = done.communicate(timeout=60)
    assert done.returncode == 0, err
    assert "sit-b2-reals" in out
    assert {p.name for p in tmp_path.rglob("reals-gpus-*/*")} == {"queue", "2"}


@pytest.mark.process
def test_a_mistake_keeps_its_exit_code_and_its_one_line(tmp_path):
    done = run(tmp_path, "stage", "transformer", "no-such-id", "2", "--config", "scale=smoke")
    _, err = done.communicate(timeout=60)
    assert done.returncode == 2
    assert len(err.splitlines()) == 1 and "no-such-id" in err


@pytest.mark.process
@pytest.mark.parametrize(
    ("asked", "starts", "threads"),
    [
        ("--gpus 1 --threads 8 --together", "-m reals", "8"),
        ("--gpus 4 --threads 8 --together", "-m reals.machine.launch --standalone --nproc-per-node=4", "2"),
        ("--gpus 4 --threads 8", "-m reals", "8"),
        ("--threads 3", "-m reals", "3"),
        (
            "--nodes 2 --gpus 4 --threads 8 --together",
            "-m reals.machine.launch --nnodes=2 --node-rank=1 --master-addr=10.0.0.7 --master-port=15042 --nproc-per-node=4",
            "2",
        ),
    ],
)
def test_what_a_slurm_job_starts(tmp_path, asked, starts, threads):
    in_step = {"SLURM_JOB_ID": "10042", "SLURM_STEP_NUM_NODES": "2" if "nodes" in asked else "1", "SLURM_NODEID": "1"}
    site = {"REALS_SITE": json.dumps({"python": stand_in(tmp_path)})}
    job = run(tmp_path, *asked.split(), "stage", "sample", "x", "0", **in_step, **site,
              SLURM_LAUNCH_NODE_IPADDR="10.0.0.7", CUDA_VISIBLE_DEVICES="0,1")  # fmt: skip
    assert job.wait(timeout=30) == 0, job.stderr.read()
    [(_, _, arguments, said)] = notes(tmp_path)
    assert " ".join(arguments) == f"{starts} stage sample x 0"
    assert said["REALS_THREADS"] == threads
    assert said["CUDA_VISIBLE_DEVICES"] == ("0,1" if "gpus" in asked else "")


@pytest.mark.process
def test_several_nodes_are_one_srun_that_says_everything_again(tmp_path):
    (tmp_path / "srun").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    job = run(tmp_path, "--nodes", "2", "--gpus", "8", "--threads", "32", "--together", "stage", "transformer", "x", "2",
              SLURM_JOB_ID="7", REALS_SITE="{}", PATH=path)  # fmt: skip
    out, err = job.communicate(timeout=30)
    assert job.returncode == 0, err
    assert out.startswith("--nodes=2 --ntasks=2 --ntasks-per-node=1 --cpus-per-task=32 --gres=gpu:8 --kill-on-bad-exit=1")
    assert out.strip().endswith("-m reals.machine.dispatch --nodes 2 --gpus 8 --threads 32 --together stage transformer x 2")


@pytest.mark.process
def test_the_sites_lines_container_and_scratch_come_before_the_command(tmp_path):
    site = {
        "setup": "export FROM_SETUP='two words'\necho loaded >&2",
        "scratch": "$HOME/scratch of $USER",
        "container": "env -u NOTHING",
        "python": stand_in(tmp_path),
    }
    job = run(tmp_path, "--minutes", "60", "stage", "sample", "x", "0", SLURM_JOB_ID="1", SLURM_STEP_NUM_NODES="1", HOME=str(tmp_path),
              USER="ann", REALS_SITE=json.dumps(site))  # fmt: skip
    _, err = job.communicate(timeout=30)
    assert job.returncode == 0, err
    assert err == "loaded\n"
    [(began, _, _, said)] = notes(tmp_path)
    assert said["FROM_SETUP"] == "two words"
    assert said["TMPDIR"] == f"{tmp_path}/scratch of ann" and Path(said["TMPDIR"]).is_dir()
    assert 3250 < float(said["REALS_STOP_AT"]) - began < 3310  # five minutes before the end of the hour


@pytest.mark.process
def test_the_log_of_each_start_of_a_training_stays_and_each_start_is_booked(tmp_path):
    told = ENVIRONMENT | {"SLURM_JOB_ID": "31", "SLURM_STEP_NUM_NODES": "1", "SLURMD_NODENAME": "n7"}
    told |= {"REALS_SITE": json.dumps({"python": stand_in(tmp_path)}), "REALS_STARTS": str(tmp_path / "book")}
    for _ in range(2):
        (tmp_path / "x.log").unlink(missing_ok=True)  # as Snakemake does
        with (tmp_path / "x.log").open("w") as log:
            command = [sys.executable, "-m", "reals.machine.dispatch", "--together", "stage", "transformer", "x", "2"]
            subprocess.run(command, cwd=REPOSITORY, env=told, stdout=log, check=True, timeout=30)
        time.sleep(1)
    kept = sorted(tmp_path.glob("x.*-*.log"))
    assert len(kept) == 2
    assert all(path.read_text().startswith("SLURM job 31 on n7, ") for path in kept)
    [line] = restarts.started_again(tmp_path / "book", since=0)
    assert line.startswith("stage transformer x 2: went on 1 time after") and line.count("job 31 on n7") == 2
    assert restarts.started_again(tmp_path / "book", since=time.time()) == []


@pytest.mark.process
def test_failing_setup_lines_stop_the_job(tmp_path):
    site = json.dumps({"setup": "false", "python": stand_in(tmp_path)})
    job = run(tmp_path, "stage", "sample", "x", "0", SLURM_JOB_ID="1", SLURM_STEP_NUM_NODES="1", REALS_SITE=site)
    assert job.wait(timeout=30) != 0
    assert not (tmp_path / "notes.jsonl").exists()


def test_a_short_limit_leaves_a_share_of_it_for_saving():
    assert dispatch.stop_at(1000.0, 1.0) == 1048.0
    assert dispatch.stop_at(0.0, 2880.0) == 2880 * 60 - 300


@pytest.mark.slow
def test_training_asks_itself_to_stop_when_its_time_is_nearly_over(monkeypatch):
    monkeypatch.setenv(signals.STOP_AT, str(time.time() + 0.3))
    with signals.stop_requests() as seen:
        assert not seen
        time.sleep(0.6)
        assert seen
    monkeypatch.setenv(signals.STOP_AT, str(time.time() + 0.3))
    with signals.stop_requests() as seen:
        pass
    time.sleep(0.5)
    assert not seen
