"""The DAG on a real SLURM: a throw-away cluster of two pretended nodes on this machine (tests/cluster/cluster.sh).

Each test ends with the very bits of a run that nothing disturbed, made without SLURM.
"""

import atexit
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import REPOSITORY, copy_project, edit

from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.experiment.stage_table import STAGES
from reals.records import journal

pytestmark = [pytest.mark.workflow, pytest.mark.extra]
SCRIPT = REPOSITORY / "tests/cluster/cluster.sh"
STEPS = 2500  # of the run that is disturbed: some ten seconds
# The first look for finished jobs comes soon, and files are seen at once: this is one machine.
SOON = ["--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "5"]


def cluster_sh(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    if "REALS_CLUSTER_RUNNING" in os.environ:  # started by hand, for several sessions
        yield
        return
    if shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("SLURM is not installed (as root on Debian: tests/cluster/cluster.sh install)")
    with Path(tempfile.gettempdir(), "reals-cluster.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pytest.skip("another test session has a cluster on this machine")
        done = cluster_sh("start")
        atexit.register(cluster_sh, "stop")
        if done.returncode == 3:
            pytest.skip(done.stderr.strip().splitlines()[-1])
        assert done.returncode == 0, done.stdout + done.stderr
        yield
        cluster_sh("stop")
        atexit.unregister(cluster_sh)


def registry(folder: Path) -> Registry:
    return Registry(load("smoke", folder=folder / "config"))


def run_of(folder: Path):
    return registry(folder).runs["sit-b2-reals"]


def weights(folder: Path) -> Path:
    return registry(folder).folder(run_of(folder)) / f"step_{STEPS}.safetensors"


def metrics(folder: Path) -> Path:
    here = registry(folder)
    return here.folder(here.evaluations["sit-b2-reals_400K"]) / "metrics.json"


def set_site(folder: Path, **keys) -> None:
    path = folder / "config/site.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | keys))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """A folder in which one evaluation and all it needs was made on this machine, without SLURM."""
    folder = tmp_path_factory.mktemp("undisturbed")
    copy_project(folder)
    edit(folder / "config/config.yaml", "scale: demo", "scale: smoke")
    scale = folder / "config/scales/smoke.yaml"
    text = scale.read_text()
    old = text[text.index("milestones:") : text.index("\n", text.index("milestones:"))]
    edit(scale, old, f"milestones: {{400K: {STEPS}, 1M: 5000, 2M: 6000, 3.25M: 7000, 4M: 8000}}")
    with scale.open("a") as file:
        file.write("engine: {save_seconds: 1}\nresources:\n  transformer: {gpu: 1, runtime: 5}\n  default: {runtime: 5}\n")
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", str(metrics(folder))], cwd=folder, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def folder(undisturbed, tmp_path) -> Path:
    return without_run(undisturbed, tmp_path / "project")


def without_run(undisturbed: Path, copy: Path) -> Path:
    """A copy without run, samples and metrics: what the tests make through SLURM."""
    subprocess.run(["cp", "-a", str(undisturbed), str(copy)], check=True)
    for name in ("runs", "states", "samples", "metrics"):
        shutil.rmtree(copy / "results/smoke" / name)
    return copy


def start(folder: Path, *arguments: str | Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "snakemake", *map(str, arguments), "--profile", "profiles/slurm", *SOON]
    with (folder / "printed.txt").open("w") as printed:
        return subprocess.Popen(command, cwd=folder, stdout=printed, stderr=subprocess.STDOUT, start_new_session=True)


def ended(process: subprocess.Popen, folder: Path, code: int = 0) -> str:
    try:
        process.wait(timeout=900)
    finally:
        end(process, folder)
    text = (folder / "printed.txt").read_text()
    assert process.returncode == code, text
    return text


def end(process: subprocess.Popen, folder: Path) -> None:
    if process.poll() is None:
        process.kill()
        subprocess.run(["scancel", *(number for number, *_ in jobs(folder))], check=False)


def ours(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("reals: ")]


def jobs(folder: Path) -> list[tuple[str, str, str]]:
    """(id, state, node) of what snakemake sent from a folder."""
    lines = subprocess.run(
        ["squeue", "--states=all", "--noheader", "--format", "%i|%T|%N|%Z"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.splitlines()
    return [(i, state, node) for i, state, node, place in (line.split("|") for line in lines) if Path(place) == folder]


def until(true: Callable[[], bool], what: str, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"{what} did not happen within {seconds} s"
        time.sleep(0.2)


def saved(folder: Path) -> bool:
    """Training has begun and saved a state."""
    return any((folder / registry(folder).states(run_of(folder))).glob("step_*"))


def logs(folder: Path) -> list[str]:
    """What each start of the training said, in order."""
    paths = (folder / "results/smoke/logs/transformer").glob(f"{run_of(folder).id}_{STEPS}.*-*.log")
    return [path.read_text() for path in sorted(paths)]


def same_weights(folder: Path, undisturbed: Path) -> None:
    from safetensors.torch import load_file

    one, other = load_file(folder / weights(folder)), load_file(undisturbed / weights(undisturbed))
    assert one.keys() == other.keys()
    assert all((one[k] == other[k]).all() for k in other)
    steps = [json.loads(line)["step"] for line in (folder / weights(folder)).with_name("log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == STEPS


def with_a_broken_shard(folder: Path) -> subprocess.Popen:
    # A node whose scratch disk is broken, the first time: the site's own lines fail.
    broken = (
        'case "$*" in *"stage sample "*" 001 --config "*) mkdir broken 2>/dev/null && { echo "no scratch disk here"; exit 1; };; esac; true'
    )
    set_site(folder, setup=broken + '; echo "sees GPUs ($CUDA_VISIBLE_DEVICES)"')
    return start(folder, metrics(folder))


def limit_to_a_minute(folder: Path) -> None:
    edit(folder / "config/scales/smoke.yaml", "transformer: {gpu: 1, runtime: 5}", "transformer: {gpu: 1, runtime: 1}")


def with_little_time(folder: Path) -> subprocess.Popen:
    limit_to_a_minute(folder)
    # Of the minute, so that a little training meets the limit. No further try is left for a failure: a saved stop needs none.
    set_site(folder, setup="sleep 35", training_retries=0, gpu_type="pretended-h100")
    return start(folder, weights(folder))


def beyond_its_limit(folder: Path) -> subprocess.Popen:
    limit_to_a_minute(folder)
    set_site(folder, setup="mkdir slept 2>/dev/null && sleep 200; true")
    return start(folder, weights(folder))


def of_every_kind(folder: Path) -> subprocess.Popen:
    shutil.rmtree(folder / "results")
    shutil.rmtree(folder / ".snakemake")
    shutil.copy(REPOSITORY / "config/scales/smoke.yaml", folder / "config/scales")
    return start(folder, *shown(folder), "--jobs", "6")


def shown(folder: Path) -> list[Path]:
    """Metrics files behind which there are jobs of every kind."""
    here = registry(folder)
    of_each = here.evaluations["sit-xl2-reals_2M_cfg1.4"], here.downstream["sit-xl2-reals_2M_cfg4.0"], here.analyses["reals"]
    return [here.outputs(artefact)[0] for artefact in of_each]


UNDISTURBED = {
    "test_every_kind_of_job_gives_the_numbers_of_a_local_run": of_every_kind,
    "test_a_failed_shard_is_tried_again_alone_and_the_numbers_are_those_of_a_local_run": with_a_broken_shard,
    "test_training_ends_by_itself_before_the_time_limit_and_goes_on_in_the_next_job": with_little_time,
    "test_a_job_that_slurm_ends_at_its_limit_gets_more_time": beyond_its_limit,
}


@pytest.fixture(scope="module")
def begun(request, cluster, undisturbed, tmp_path_factory) -> Iterator[dict[str, tuple[subprocess.Popen, Path]]]:
    """Runs that no test disturbs, by the test that is about them: all at once, since they wait for SLURM most of the time."""
    made = {}
    for item in request.session.items:
        if begin := UNDISTURBED.get(item.name):
            folder = without_run(undisturbed, tmp_path_factory.mktemp("run") / "project")
            made[item.name] = begin(folder), folder
    yield made
    for process, folder in made.values():
        end(process, folder)


def test_a_failed_shard_is_tried_again_alone_and_the_numbers_are_those_of_a_local_run(begun, request, undisturbed):
    process, folder = begun[request.node.name]
    text = ended(process, folder)
    same_weights(folder, undisturbed)
    ours_, theirs = (json.loads((f / metrics(f)).read_text()) for f in (folder, undisturbed))
    assert ours_["values"] == theirs["values"]
    assert len(jobs(folder)) == 1 + 3 + 1  # training, two shards of which one twice, evaluation
    [trained] = (folder / "results/smoke/logs/transformer").glob(f"*_{STEPS}.log")
    assert re.search(r"^sees GPUs \(\d\)$", trained.read_text(), re.MULTILINE)
    for log in (folder / "results/smoke/logs/sample").glob("*.log"):
        assert "sees GPUs ()" in log.read_text()  # asks for none
    failure, again = ours(text)
    assert "samples of SiT-B/2 on ReaLS at 400K, shard 1 failed (SLURM job" in failure
    assert "FAILED): no scratch disk here" in failure
    told = re.findall(r"^(queued|running|\[\d+/\d+\]):? SiT-B/2 on ReaLS, 400K[: ]", text, re.MULTILINE)
    assert told[:2] == ["queued", "running"] and re.fullmatch(r"\[\d/\d\]", told[-1])
    assert " 001 --config scale=smoke: went on 1 time" in again


def test_training_ends_by_itself_before_the_time_limit_and_goes_on_in_the_next_job(begun, request, undisturbed):
    process, folder = begun[request.node.name]
    text = ended(process, folder)
    same_weights(folder, undisturbed)
    *stopped, last = [state for _, state, _ in sorted(jobs(folder), key=lambda job: int(job[0]))]
    assert last == "COMPLETED" and stopped and set(stopped) <= {"FAILED", "TIMEOUT"}  # TIMEOUT where the machine is very busy
    *before, after = logs(folder)
    assert all("saved, the same command goes on" in text for text in before) and "resumed at" in after
    assert re.search(r"\): .*asked to stop; state of step \d+ saved, the same command goes on", ours(text)[0])
    assert "went on" in ours(text)[-1]


def test_a_job_that_slurm_ends_at_its_limit_gets_more_time(begun, request, undisturbed):
    process, folder = begun[request.node.name]
    text = ended(process, folder)
    same_weights(folder, undisturbed)
    assert [state for _, state, _ in sorted(jobs(folder), key=lambda job: int(job[0]))] == ["TIMEOUT", "COMPLETED"]
    assert ": TIMEOUT): " in ours(text)[0]


def test_every_kind_of_job_gives_the_numbers_of_a_local_run(begun, request, finished):
    process, folder = begun[request.node.name]
    text = ended(process, folder)
    here = registry(folder)
    made = {job["stage"] for job in journal.read(folder / here.root / "journal.jsonl")}
    assert made == {stage.command for stage in STAGES}, text
    for path in shown(folder):
        one, other = (json.loads((place / path).read_text())["values"] for place in (finished, folder))
        assert one == other, path


def test_two_nodes_with_two_processes_each_train_to_the_result_of_one(cluster, undisturbed, folder):
    import torch
    from safetensors.torch import load_file

    edit(folder / "config/scales/smoke.yaml", f"400K: {STEPS}", "400K: 40")
    alone = folder.with_name("alone")
    subprocess.run(["cp", "-a", str(folder), str(alone)], check=True)
    target = registry(folder).folder(run_of(folder)) / "step_40.safetensors"
    subprocess.run([sys.executable, "-m", "snakemake", str(target)], cwd=alone, capture_output=True, timeout=300, check=True)
    edit(folder / "config/scales/smoke.yaml", "transformer: {gpu: 1, runtime: 5}", "transformer: {nodes: 2, gpu: 2, runtime: 5}")
    set_site(folder, gpu_type="pretended-h100")  # a name that Snakemake's executor refuses in a gres
    ended(start(folder, target), folder)
    [(_, state, nodes)] = jobs(folder)
    assert (state, nodes) == ("COMPLETED", "n[1-2]")
    one, four = load_file(alone / target), load_file(folder / target)
    for name, value in one.items():
        torch.testing.assert_close(four[name], value, rtol=1e-4, atol=1e-5)


def test_a_second_snakemake_and_one_after_a_killed_one_are_refused_in_one_line_and_go_on_later(cluster, undisturbed, folder):
    set_site(folder, setup="sleep 60")
    first = start(folder, weights(folder))
    until(lambda: [state for _, state, _ in jobs(folder)] == ["RUNNING"], "the job's start")
    # While the first runs.
    second = subprocess.run(
        [sys.executable, "-m", "snakemake", str(weights(folder)), "--profile", "profiles/slurm"],
        cwd=folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert second.returncode != 0
    assert len(ours(second.stderr)) == 1 and "is being written by" in ours(second.stderr)[0]
    # Killed outright it leaves its job running, which would write to the same folder as a second one.
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    [(number, state, _)] = jobs(folder)
    assert state == "RUNNING"
    text = ended(start(folder, weights(folder)), folder, code=2)
    assert len(ours(text)) == 1 and f"scancel {number}" in ours(text)[0]
    assert len(jobs(folder)) == 1
    subprocess.run(["scancel", number], check=True)
    until(lambda: jobs(folder)[0][1] == "CANCELLED", "scancel")
    set_site(folder, setup=None)
    ended(start(folder, weights(folder)), folder)
    same_weights(folder, undisturbed)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"gpu_partition": "gpux"}, "config/site.yaml: gpu_partition: no partition 'gpux' here; known: gpu, spot"),
        ({"gpu_type": "a100"}, "resources.transformer.gpu 1: no node of the default partition has so many GPUs of type a100"),
        ({"max_runtime": 0}, "config/site.yaml: max_runtime: "),
        ({"constraint": "nvlink"}, "config/site.yaml: SLURM refuses transformer: Invalid feature specification (sbatch --constraint"),
        ({"options": "--gres=gpu:2"}, "config/site.yaml: options --gres=gpu:2: the generic resources (GRES) follows from"),
        ({"options": "--exlusive"}, "config/site.yaml: SLURM refuses transformer: unrecognized option '--exlusive' (sbatch --time"),
    ],
)
def test_what_the_cluster_cannot_give_is_one_line_and_sends_nothing(cluster, folder, keys, says):
    set_site(folder, **keys)
    text = ended(start(folder, weights(folder)), folder, code=2)
    assert len(ours(text)) == 1 and says in ours(text)[0]
    assert jobs(folder) == []


def test_a_preempted_job_goes_on(cluster, undisturbed, folder):
    set_site(folder, gpu_partition="spot")
    process = start(folder, weights(folder))
    until(lambda: saved(folder), "training")
    [(number, _, node)] = jobs(folder)
    wanted = ["sbatch", "--parsable", "-p", "gpu", "-w", node, "--gres=gpu:8", "-o", "/dev/null", "--wrap", "sleep 3"]
    subprocess.run(wanted, check=True, capture_output=True)
    text = ended(process, folder)
    same_weights(folder, undisturbed)
    assert [i for i, *_ in jobs(folder)] == [number]  # SLURM's own requeue: no new job
    assert len(ours(text)) == 1 and "went on 1 time after a preemption" in ours(text)[0]
    assert "resumed at" in logs(folder)[1]


def test_a_job_on_a_node_that_dies_goes_on_elsewhere(cluster, undisturbed, folder):
    process = start(folder, weights(folder))
    until(lambda: saved(folder), "training")
    [(_, _, node)] = jobs(folder)
    assert cluster_sh("node-down", node).returncode == 0
    try:
        text = ended(process, folder)
    finally:
        assert cluster_sh("node-up", node).returncode == 0
    same_weights(folder, undisturbed)
    assert len(ours(text)) == 1 and "went on 1 time after" in ours(text)[0] and f"on {node} " in ours(text)[0]


def test_a_job_cancelled_by_hand_is_sent_again(cluster, undisturbed, folder):
    process = start(folder, weights(folder))
    until(lambda: saved(folder), "training")
    [(number, *_)] = jobs(folder)
    subprocess.run(["scancel", number], check=True)
    text = ended(process, folder)
    same_weights(folder, undisturbed)
    assert [state for _, state, _ in sorted(jobs(folder), key=lambda job: int(job[0]))] == ["CANCELLED", "COMPLETED"]
    assert f"(SLURM job {number}: CANCELLED): " in ours(text)[0]
    first, second = logs(folder)
    assert "asked to stop; state of step" in first and "resumed at" in second


def test_what_would_fail_again_is_not_tried_again(cluster, folder):
    cache = registry(folder).folder(run_of(folder).needs[0])
    shards = list((folder / cache).glob("*.npy"))
    for path in shards:
        whole = np.load(path)
        np.save(path, np.full_like(whole, np.nan))
    assert shards
    text = ended(start(folder, weights(folder)), folder, code=1)
    assert [state for _, state, _ in jobs(folder)] == ["FAILED"]
    assert ours(text)[0].endswith("; not tried again, since it would fail in the same way")
