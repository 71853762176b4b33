"""The trace of some steps holds those steps and no other, wherever a run stops and goes on, and changes nothing."""

import gzip
import json
import os
import signal

import pytest
import torch
from lines import Line, run, same

from reals.experiment.engine import EngineConfig
from reals.training import loop


class Named(Line):
    """Says in the trace which step it makes."""

    def update(self, step):
        with torch.profiler.record_function(f"step {step + 1}"):
            return super().update(step)


def train(folder, steps, profile):
    task = Named()
    loop.train(task, folder, steps, label="line", engine=EngineConfig(log_every=1, profile=profile))
    return task


def traced(folder):
    """Trace file -> the steps that it shows."""
    found = {}
    for path in sorted((folder / "profile").glob("*")):
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        named = {event["name"] for event in events if str(event.get("name")).startswith("step ")}
        found[path.name] = sorted(int(name.split()[1]) for name in named)
    return found


def test_the_steps_asked_for_are_traced_and_the_weights_are_the_same(tmp_path):
    assert same(train(tmp_path / "a", 6, (2, 4)), run(tmp_path / "b", 6))
    assert traced(tmp_path / "a") == {"steps_2-4.json.gz": [2, 3, 4]}


def test_a_resumed_run_traces_the_steps_that_are_left_of_them(tmp_path):
    for steps in (3, 5, 7):
        train(tmp_path, steps, (3, 6))
    assert traced(tmp_path) == {"steps_3-3.json.gz": [3], "steps_4-5.json.gz": [4, 5], "steps_6-6.json.gz": [6]}
    train(tmp_path, 9, (3, 6))
    assert len(traced(tmp_path)) == 3


def test_a_run_that_fails_among_them_leaves_what_it_made(tmp_path):
    class Failing(Named):
        def update(self, step):
            if step == 3:
                raise RuntimeError("broken")
            return super().update(step)

    with pytest.raises(RuntimeError, match="broken"):
        loop.train(Failing(), tmp_path, 6, label="line", engine=EngineConfig(profile=(2, 6)))
    assert traced(tmp_path) == {"steps_2-3.json.gz": [2, 3]}


def test_a_run_that_is_told_to_stop_names_the_step_at_which_it_did(tmp_path):
    class Told(Named):
        def update(self, step):
            if step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().update(step)

    with pytest.raises(loop.Stopped):
        loop.train(Told(), tmp_path, 6, label="line", engine=EngineConfig(profile=(2, 6)))
    assert traced(tmp_path) == {"steps_2-3.json.gz": [2, 3]}


@pytest.mark.parametrize("steps", [[0, 4], [5, 4], 10, [10], [1, 2, 3], "10", [1.5, 3], ["a", 3]])
def test_steps_that_are_none_are_refused(steps):
    with pytest.raises(ValueError, match=r"is no first and last step; write e\.g\. \[10, 20\]"):
        EngineConfig(profile=steps)
