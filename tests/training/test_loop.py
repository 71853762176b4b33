"""The loop resumes bit for bit, whatever ended it, and never starts from a damaged state."""

import os
import signal
import time

import pytest
from forks import codes, fork, wait_for
from lines import EACH_STEP, Line, Slow, run, same, states

from reals.training import loop
from reals.training.log import read_log


def test_three_and_three_steps_are_six(tmp_path):
    assert same(run(tmp_path / "a", 6), run(tmp_path / "b", 3, 6))
    records = read_log(tmp_path / "b" / "log.jsonl")
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


@pytest.mark.process
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
    logged = [r["step"] for r in read_log(folder / "log.jsonl")]
    assert logged == [*range(1, 9), *range(11, 41)]
    assert same(run(folder, 10), run(tmp_path / "b", 10))
    assert [r["step"] for r in read_log(folder / "log.jsonl")] == list(range(1, 41))
    assert states(folder).newest(40) == 40 and same(run(folder, 40), run(tmp_path / "b", 40))
