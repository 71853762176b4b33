"""The loop resumes bit for bit, whatever ended it, and never starts from a damaged state."""

import json
import os
import signal
import sys
import time
import types

import numpy as np
import pytest
from forks import codes, fork, wait_for
from hypothesis import given
from hypothesis import strategies as st
from lines import EACH_STEP, Line, Slow, run, same, states

from reals import rng
from reals.experiment.config import EngineConfig
from reals.training import loop


def test_three_and_three_steps_are_six(tmp_path):
    assert same(run(tmp_path / "a", 6), run(tmp_path / "b", 3, 6))
    records = loop.read_log(tmp_path / "b" / "log.jsonl")
    assert [r["step"] for r in records] == [1, 2, 3, 4, 5, 6]


def test_a_damaged_state_is_said_and_passed_over(tmp_path, capsys):
    run(tmp_path / "a", 3, 6)
    path = states(tmp_path / "a").path(6)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert same(run(tmp_path / "a", 9), run(tmp_path / "b", 9))
    assert "WARNING" in capsys.readouterr().out
    assert same(run(tmp_path / "a", 9), run(tmp_path / "b", 9))


def test_a_state_cut_short_is_never_loaded(tmp_path):
    run(tmp_path / "a", 4)
    path = states(tmp_path / "a").path(4)
    path.write_bytes(path.read_bytes()[:100])
    assert same(run(tmp_path / "a", 4), run(tmp_path / "b", 4))


def test_an_earlier_milestone_after_a_later_one(tmp_path):
    run(tmp_path / "a", 3, 9)
    task = Line()
    loop.train(task, tmp_path / "a", 5, label="line")
    assert same(task, run(tmp_path / "b", 5))


def test_a_loss_that_is_not_finite_stops_with_step_and_terms(tmp_path):
    run(tmp_path, 3)
    with pytest.raises(FloatingPointError, match=r"not finite at step 5 \(loss nan, bias .*last good state is that of step 3"):
        run(tmp_path, 9, fail_at=5)
    assert same(run(tmp_path, 9), run(tmp_path / "b", 9))


def test_states_kept_are_milestones_and_the_last_two(tmp_path):
    for steps in (2, 4, 6, 8):
        loop.train(Line(), tmp_path, steps, label="line", keep=(2,))
    assert states(tmp_path).steps() == [2, 6, 8]


def test_event_files_hold_what_the_log_holds_and_start_anew_where_a_run_goes_on(tmp_path, monkeypatch):
    written, purged = {}, []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            assert folder == str(tmp_path / "tensorboard")
            purged.append(purge_step)

        def add_scalar(self, name, value, step):
            written.setdefault(step, {})[name] = value

        def close(self):
            written["closed"] = True

    package = types.ModuleType("torch.utils.tensorboard")
    package.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", package)
    engine = EngineConfig(log_every=1, tensorboard=True)
    for steps in (3, 6):
        loop.train(Line(), tmp_path, steps, label="line", engine=engine)
        assert written.pop("closed")
    assert purged == [1, 4]
    assert written == {record["step"]: record for record in loop.read_log(tmp_path / "log.jsonl")}


def test_without_tensorboard_one_line_says_so_and_training_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    loop.train(Line(), tmp_path, 2, label="line", engine=EngineConfig(log_every=1, tensorboard=True))
    assert "the package tensorboard is not installed; log.jsonl holds the same numbers" in capsys.readouterr().err
    assert len(loop.read_log(tmp_path / "log.jsonl")) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_warning_saves_and_exits_with_the_documented_code(tmp_path, number, capfd):
    child = fork(lambda: loop.train(Slow(tmp_path / "told"), tmp_path / "a", 500, label="line", engine=EACH_STEP))
    wait_for(tmp_path / "told")
    began = time.monotonic()
    os.kill(child, number)
    assert codes([child]) == [75]
    assert time.monotonic() - began < 5
    assert "the same command goes on" in capfd.readouterr().err
    assert 2 <= states(tmp_path / "a").steps()[-1] < 500
    assert same(run(tmp_path / "a", 500), run(tmp_path / "b", 500))


@given(st.integers(1, 40), st.integers(1, 30), st.integers(0, 5))
def test_the_data_order_is_one_stream_of_permutations(n, batch, seed):
    steps = -(-3 * n // batch)
    stream = [i for step in range(steps) for i in loop.data_order(seed, step, batch, n)]
    for epoch in range(3):
        assert sorted(stream[epoch * n : (epoch + 1) * n]) == list(range(n))
    assert stream[:n] == np.asarray(rng.permutation(seed, "data order", 0, n=n)).tolist()


def test_the_log_never_repeats_a_step(tmp_path):
    log = loop.Log(tmp_path / "log.jsonl", 0, 6)
    for step in range(1, 6):
        log.write({"step": step})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # a line a kill cut short
    loop.Log(tmp_path / "log.jsonl", 3, 6).write({"step": 4})
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2, 3, 4]


def test_a_milestone_put_in_before_finished_ones_can_be_interrupted_and_costs_them_nothing(tmp_path):
    class Asked(Line):
        def update(self, step):
            if step == 7:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().update(step)

    folder = tmp_path / "a"
    run(folder, 20, 40)
    with pytest.raises(loop.Stopped):
        loop.train(Asked(), folder, 10, label="line", engine=EACH_STEP, keep=(10, 20, 40))
    assert states(folder).newest(10) == 8
    logged = [r["step"] for r in loop.read_log(folder / "log.jsonl")]
    assert logged == [*range(1, 9), *range(11, 41)]
    assert same(run(folder, 10), run(tmp_path / "b", 10))
    assert [r["step"] for r in loop.read_log(folder / "log.jsonl")] == list(range(1, 41))
    assert states(folder).newest(40) == 40 and same(run(folder, 40), run(tmp_path / "b", 40))


def test_going_on_does_not_write_into_the_log_that_was_pulled(tmp_path):
    folder, cached = tmp_path / "a", tmp_path / "object"
    run(folder, 3)
    cached.hardlink_to(folder / "log.jsonl")  # as DVC leaves it with cache.type hardlink
    before = cached.read_text()
    run(folder, 6)
    assert cached.read_text() == before
    assert [r["step"] for r in loop.read_log(folder / "log.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_a_line_cut_short_does_not_hide_the_rest_of_a_log(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo\n{"step": 3, "loss": 1.0}\n')
    assert [r["step"] for r in loop.read_log(tmp_path / "log.jsonl")] == [1, 3]
