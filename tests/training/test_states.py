"""A state is read whole, in one copy that nobody keeps."""

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from forks import codes, fork
from lines import Line, run, same, states

from reals.training import loop
from reals.training.processes import Processes
from reals.training.states import States

MEGABYTES = 64


def own_megabytes() -> float:
    """Memory of this process that is no page of a file."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) / 1024


def in_file(tensor: torch.Tensor, path: Path) -> bool:
    """Whether a tensor's numbers are pages of a file, and not memory of the process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(address, 16) for address in line.split()[0].split("-"))
        if start <= tensor.data_ptr() < end:
            return line.endswith(str(path))
    return False


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_a_mapped_state_is_the_same_numbers_and_takes_no_memory_of_the_process(tmp_path):
    with States(tmp_path) as saved:
        saved.save(1, {"weights": torch.arange(MEGABYTES * 2**18, dtype=torch.float32), "step": 1})

    def read():
        mapped, whole = saved.read(1, mapped=True), saved.read(1)
        assert in_file(mapped["weights"], saved.path(1)) and not in_file(whole["weights"], saved.path(1))
        assert torch.equal(mapped["weights"], whole["weights"]) and mapped["step"] == whole["step"]
        mapped["weights"].add_(1)  # in no file
        assert torch.equal(saved.read(1)["weights"], whole["weights"])
        gc.collect()

    def read_twice():
        """As a rank on a GPU does: page by page to the device."""
        before = own_megabytes()
        weights = saved.read(1, mapped=True)["weights"]
        total = sum(float(part.sum()) for part in weights.split(2**16))
        assert total > 0 and own_megabytes() - before < 0.2 * MEGABYTES

    assert codes([fork(read), fork(read_twice)]) == [0, 0]


@pytest.mark.slow
def test_a_resumed_run_keeps_nothing_of_the_state_that_it_read(tmp_path, monkeypatch):
    """But what the optimizer of a CPU takes over as its own."""
    run(tmp_path / "a", 3)
    read, seen = States.read, []

    def noted(self, step, mapped=False):
        state = read(self, step, mapped)
        seen.extend(weakref.ref(t) for t in [*state["task"]["model"].values(), *state["task"]["ema"]])
        return state

    class Looking(Line):
        def update(self, step):
            gc.collect()
            assert seen and all(ref() is None for ref in seen)
            return super().update(step)

    monkeypatch.setattr(States, "read", noted)
    task = Looking()
    loop.train(task, tmp_path / "a", 6, label="line")
    monkeypatch.undo()
    assert same(task, run(tmp_path / "b", 6))


@pytest.mark.parametrize(("device", "mapped"), [("cpu", False), ("cuda", True)])
def test_on_a_gpu_the_state_is_mapped(tmp_path, monkeypatch, device, mapped):
    run(tmp_path, 3)
    asked = []

    def noted(self, step, mapped=False):
        asked.append(mapped)
        return {"task": {}, "processes": {}}

    monkeypatch.setattr(States, "read", noted)
    processes = Processes()
    processes.device = torch.device(device)
    task = SimpleNamespace(load=lambda state: None)
    assert loop._resume(task, 3, processes, states(tmp_path), tmp_path) == 3
    assert asked == [mapped]
