"""What a run survives: kills at any instant, also while a state is written, full disks, damaged states, second writers."""

import os
import random
import re
import resource
import signal
import subprocess
import time

import pytest
import torch
from forks import codes, fork, wait_for
from lines import Line, Slow, run, same, states

from reals import files
from reals.experiment.engine import EngineConfig
from reals.training import loop
from reals.training.log import read_log

STEPS_PER_KILL = 150
BALLAST = 500_000  # floats: a state takes long enough to write for kills to hit the writing
ALWAYS_SAVING = EngineConfig(log_every=7, save_seconds=1e-3)


def train_slowly(folder, steps, told=None):
    loop.train(Slow(told, 0.001, BALLAST), folder, steps, label="line", engine=ALWAYS_SAVING)


def advanced(folder, step):
    """Waits for a state beyond ``step``."""
    until = time.monotonic() + 60
    while (states(folder).steps() or [0])[-1] <= step:
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.process
@pytest.mark.parametrize("kills", [8, pytest.param(50, marks=pytest.mark.extra)])
def test_killed_at_random_moments_the_run_ends_with_the_same_bits(tmp_path, kills):
    chance = random.Random(kills)
    folder, while_writing, seen, steps = tmp_path / "a", 0, [], STEPS_PER_KILL * kills
    for kill in range(kills):
        child = fork(lambda: train_slowly(folder, steps))
        if kill % 2:  # on a slow machine too, half of the kills come after some work
            advanced(folder, seen[-1])
        time.sleep(chance.uniform(0.0, 0.2))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while_writing += bool(list((folder / "state").glob(".*.partial")))
        seen.append((states(folder).steps() or [0])[-1])
    assert codes([fork(lambda: train_slowly(folder, steps))]) == [0]
    assert same(run(folder, steps), run(tmp_path / "b", steps))
    print(f"{kills} kills, {while_writing} of them while a state was written; last states at {seen}")
    assert while_writing >= kills // 10
    assert len(set(seen)) >= kills // 2
    assert seen.count(steps) < kills // 4  # most kills met a run under way
    assert not list(folder.rglob("*.partial"))
    logged = [r["step"] for r in read_log(folder / "log.jsonl")]
    assert logged == sorted({*range(7, steps, 7), steps})


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


class Growing(Line):
    """Its state outgrows the disk after step 3."""

    def update(self, step):
        self.step = step
        return super().update(step)

    def state(self):
        return super().state() | {"ballast": torch.zeros(1_000 if self.step < 3 else 500_000)}


def check_full_disk(folder, tmp_path):
    with pytest.raises(OSError, match=r"no room for the state of step 6, which needs 2,000,\d+ bytes") as caught:
        loop.train(Growing(), folder, 6, label="line")
    assert re.search(
        rf"{re.escape(str(folder))}.*the last good state is that of step 3.*run the same command again", str(caught.value)
    )
    assert "\n" not in str(caught.value)
    assert states(folder).steps() == [3]
    assert [p.name for p in (folder / "state").iterdir() if "3" not in p.name] == []
    assert same(run(folder, 6), run(tmp_path / "b", 6))


@pytest.mark.process
def test_a_full_disk_stops_with_one_line_and_keeps_the_last_state(small_disk, tmp_path):
    loop.train(Growing(), small_disk / "a", 3, label="line")
    check_full_disk(small_disk / "a", tmp_path)


@pytest.mark.process
def test_a_file_size_limit_is_a_full_disk(tmp_path):
    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        loop.train(Growing(), tmp_path / "a", 3, label="line")
        check_full_disk(tmp_path / "a", tmp_path)

    assert codes([fork(limited)]) == [0]


@pytest.mark.parametrize("damage", ["flipped", "truncated", "emptied", "removed"])
def test_a_damaged_state_is_said_loudly_and_the_one_before_used(tmp_path, damage, capfd):
    run(tmp_path / "a", 3, 6)
    path = states(tmp_path / "a").path(6)
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 3] ^= 4
    match damage:
        case "flipped":
            path.write_bytes(flipped)
        case "truncated":
            path.write_bytes(content[:-7])
        case "emptied":
            path.write_bytes(b"")
        case "removed":
            path.unlink()
    assert same(run(tmp_path / "a", 9), run(tmp_path / "b", 9))
    out = capfd.readouterr()
    assert f"WARNING: {path} is damaged (checksum differs); going back to the state before it" in out.out
    assert "resumed at 3 of 9" in out.err


@pytest.mark.process
def test_a_second_writer_is_refused_and_names_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOCK_SECONDS", 0.2)
    child = fork(lambda: train_slowly(tmp_path / "a", 9000, tmp_path / "told"))
    wait_for(tmp_path / "told")
    with pytest.raises(ValueError, match=rf"is being written by .* pid {child}; wait for it or stop it"):
        run(tmp_path / "a", 5)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with files.lock(tmp_path / "a" / ".lock", "the run"):
        pass  # a killed writer holds nothing


def test_writing_states_does_not_hold_up_training(tmp_path):
    """States are copied at once and written aside; a step that follows a save changes nothing in what is saved."""
    loop.train(Slow(seconds=0.0, ballast=BALLAST), tmp_path / "a", 40, label="line", engine=EngineConfig(save_seconds=1e-6))
    for step in states(tmp_path / "a").steps():
        task = Line()
        task.load(states(tmp_path / "a").read(step)["task"])
        assert same(task, run(tmp_path / f"b{step}", step))
