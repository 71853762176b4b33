"""The one training loop: run a task's steps, log them, save its state, resume exactly, stop when told."""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from reals import files, rng
from reals.experiment.config import EngineConfig
from reals.machine.signals import GO_ON, stop_requests
from reals.machine.usage import work
from reals.progress import Progress
from reals.training.processes import SMALLEST_SCALE, Agreed, PeerLost, Processes, is_peer_loss
from reals.training.states import States

LOCK_SECONDS = 60.0  # a predecessor that was told to stop may still be saving
REPORTED_SECONDS = 60.0  # a shorter run does not say what its states cost
OF_THE_MACHINE = frozenset({"samples_per_second", "step_seconds", "mfu", "memory_gb"})
"""What a log record says of the machine and not of the training: different each time, so no part of any result."""

Batch = TypeVar("Batch")


class Stopped(Agreed):
    """Raised once the state is saved after a request to stop."""


class NotFinite(Agreed, FloatingPointError):
    """A loss or gradient that is not a number: step, terms and last good state are in the message."""


class Task(Protocol):
    """What is trained. ``update(step)`` makes optimizer step number ``step`` (from 0) and depends on nothing else.

    In several processes each holds the same state, computes its shares of the step's batch (`Processes.shares`) and
    makes the same step.
    """

    def update(self, step: int) -> dict[str, Tensor | float]:
        """One step; its terms as detached scalars that the mean over the processes makes those of the whole batch.

        ``loss`` is among them, and ``grad_norm`` (before clipping) and ``lr`` where there are such.
        """

    def extras(self) -> dict[str, Tensor]:
        """Further terms for the log, too costly for every step."""
        return {}

    def state(self) -> dict:
        """Everything `update` changes: tensors, numbers, lists and dicts of them."""

    def load(self, state: dict) -> None: ...


class Ahead(Generic[Batch]):
    """``make(step)``, a pure function, computed in a thread one step before it is asked for."""

    def __init__(self, make: Callable[[int], Batch]):
        self.make, self.pool = make, ThreadPoolExecutor(1)
        self.next: tuple[int, Future[Batch]] | None = None

    def __call__(self, step: int) -> Batch:
        if self.next is None or self.next[0] != step:
            self.next = step, self.pool.submit(self.make, step)
        batch = self.next[1].result()
        self.next = step + 1, self.pool.submit(self.make, step + 1)
        return batch


def data_order(seed: int, step: int, batch: int, n: int) -> list[int]:
    """Indices of one batch: position p of the endless stream is entry p mod n of epoch p // n's permutation."""
    indices: list[int] = []
    position = step * batch
    while len(indices) < batch:
        epoch, offset = divmod(position + len(indices), n)
        indices += _epoch(seed, epoch, n)[offset : offset + batch - len(indices)].tolist()
    return indices


_last_epoch: tuple = (None, None)


def _epoch(seed: int, epoch: int, n: int):
    global _last_epoch
    key, order = _last_epoch
    if key != (seed, epoch, n):
        order = rng.permutation(seed, "data order", epoch, n=n)
        _last_epoch = ((seed, epoch, n), order)
    return order


@torch.no_grad()
def update_ema(ema: list[Tensor], parameters: Iterable[Tensor], decay: float) -> None:
    """ema <- decay * ema + (1 - decay) * parameters."""
    torch._foreach_lerp_(ema, list(parameters), 1 - decay)


class Log:
    """log.jsonl of a run: one line a record.

    On opening, the records of the steps that are about to be made (beyond ``step``, up to ``last``) are dropped, and those
    of later steps, which an earlier call made, stay.
    """

    def __init__(self, path: Path, step: int, last: int):
        self.path = path
        if path.exists():
            lines = path.read_text().splitlines()
            kept = [json.dumps(record) for record in read_log(path) if not step < record["step"] <= last]
            # A file with other names is not only ours: DVC links what it pulls to its cache.
            if kept != lines or path.is_symlink() or path.stat().st_nlink > 1:
                files.write_text(path, "".join(line + "\n" for line in kept))
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("a")

    def write(self, record: dict) -> None:
        try:
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()
        except OSError as error:
            raise OSError(error.errno, f"{self.path}: a record could not be written ({error.strerror}); {GO_ON}") from None


def read_log(path: Path) -> list[dict]:
    """The records of a run's log in order of their steps."""
    return sorted(files.read_lines(path), key=lambda record: record["step"])


def tensorboard(folder: Path, step: int):
    """A writer of event files from ``step`` on, or None, with a line that says so, where tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("engine.tensorboard: the package tensorboard is not installed; log.jsonl holds the same numbers", file=sys.stderr)
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


def train(
    task: Task,
    folder: Path,
    steps: int,
    *,
    label: str,
    processes: Processes | None = None,
    engine: EngineConfig | None = None,
    keep: Iterable[int] = (),
    batch: int | None = None,
    utilisation: Callable[[float], float | None] = lambda step_seconds: None,
    sample: Callable[[Path], None] | None = None,
    states: Path | None = None,
) -> None:
    """Brings ``task`` to exactly ``steps``, from the newest state in ``folder`` or from the start.

    Killed at any instant, the same call goes on from the last state and ends with the same bits, since every step
    is a function of its number. Saves every ``engine.save_seconds`` and at the end; states of the steps in ``keep`` are
    never removed. ``batch`` samples a step and ``utilisation`` (step seconds -> MFU) are for the log. ``sample`` draws a
    picture every ``engine.sample_every`` steps, in the main process. ``states`` is where states are (``folder``/state).

    Raises NotFinite (step and terms named, last good state kept), Stopped after saving on SIGTERM, SIGUSR1 or SIGINT to
    any process, PeerLost where another process is gone, and OSError where a state or the log cannot be written.
    """
    processes, engine, kept = (
        processes or Processes(),
        engine or EngineConfig(),
        States(states or folder / "state", {*keep, steps}),
    )
    try:
        with stop_requests() as stops, _lock(folder, processes):
            _Run(task, folder, steps, label, processes, engine, kept, batch, utilisation, sample).go(stops)
    except Exception as error:
        if processes.count > 1 and is_peer_loss(error):
            raise PeerLost(f"{label}: another process of this run is gone; {GO_ON} ({kept.folder})") from error
        raise


def _lock(folder: Path, processes: Processes):
    """Against a second run; the main process holds it for all."""
    return files.lock(folder / ".lock", str(folder), LOCK_SECONDS) if processes.main else nullcontext()


class _Run:
    """One call of `train`."""

    def __init__(self, task, folder, steps, label, processes, engine, states, batch, utilisation, sample):
        self.task, self.folder, self.steps, self.label = task, folder, steps, label
        self.processes, self.engine = processes, engine
        self.batch, self.utilisation, self.sample = batch, utilisation, sample
        self.states = states
        self.unchecked: list[tuple[int, dict]] = []  # (step, terms) that nobody has waited for yet

    def go(self, stops: list[int]) -> None:
        processes, states, every = self.processes, self.states, self.engine.log_every
        if processes.main:
            states.tidy()
            files.sweep(self.folder / "log.jsonl")
        done = processes.from_main(states.newest(self.steps) if processes.main else 0)
        if done:
            loaded = states.read(done)
            self.task.load(loaded["task"])
            processes.load(loaded.get("processes", {}))
        self.log = Log(self.folder / "log.jsonl", done, self.steps) if processes.main else None
        board = tensorboard(self.folder / "tensorboard", done) if processes.main and self.engine.tensorboard else None
        self.progress = Progress(self.label, self.steps, done, quiet=not processes.main)
        saved = self.marked = time.monotonic()
        self.first, self.marked_step, self.began = done, done, saved
        shown: dict[str, float] = {}
        try:
            with work():
                for step in range(done, self.steps):
                    self.unchecked.append((step, self.task.update(step)))
                    number = step + 1
                    due = processes.main and not states.busy and time.monotonic() - saved > self.engine.save_seconds
                    if due:
                        saved = time.monotonic()
                    stop, save = processes.vote(bool(stops), due)
                    if number % every == 0 or number == self.steps:
                        record = self.record(number)
                        shown = {"loss": record["loss"]}
                        if processes.main:
                            self.log.write(record)
                            for name, value in record.items() if board else ():
                                board.add_scalar(name, value, number)
                    if (stop or save) and number < self.steps:
                        self.check()
                        self.save(number)
                    if stop and number < self.steps:
                        self.stop(number)
                    if self.sample and self.engine.sample_every and number % self.engine.sample_every == 0:
                        self.draw(number)
                    # A stretch of the estimate ends where the device is known to be done: on a GPU, at the log's steps.
                    if processes.device.type == "cpu" or number % every == 0 or number == self.steps or number - done <= 3:
                        self.progress.update(number, **shown)
                    states.check()
            if done < self.steps:
                self.save(self.steps)
        finally:
            if processes.main:
                self.log.file.close()
            if board:
                board.close()
            states.wait()
        elapsed = time.monotonic() - self.began
        if processes.main and elapsed > REPORTED_SECONDS:
            print(
                f"{self.label}: {states.written} states of {states.bytes / 1e6:,.1f} MB written in the background; "
                f"training waited {states.stalled:.2f} s for them ({states.stalled / elapsed:.1%})",
                file=sys.stderr,
            )

    def check(self) -> None:
        """Raises NotFinite where a step since the last check went wrong, in any process.

        Only here and in `record` does the loop wait for the device. It comes before every save, so a state that was
        saved is good.
        """
        terms = {
            (step, name): terms[name]
            for step, terms in self.unchecked
            for name in terms
            # An overflow in fp16 is part of finding the loss scale; the step was left out.
            if name == "loss" or (name.endswith("grad_norm") and not self.processes.scaler)
        }
        values = self.processes.means(terms) if terms else {}
        bad = [step for (step, _), value in values.items() if not abs(value) < float("inf")]
        if bad:
            self.fail(bad[0], "the loss or its gradient is not finite")
        if self.processes.scaler and self.processes.scaler.get_scale() < SMALLEST_SCALE:
            self.fail(self.unchecked[-1][0], "the gradients overflow fp16 at every loss scale")
        self.unchecked.clear()

    def fail(self, step: int, what: str) -> None:
        terms = self.processes.means(dict(self.unchecked)[step])
        good = max([0, *self.states.upto(step)])
        raise NotFinite(
            f"{self.label}: {what} at step {step} ({', '.join(f'{k} {v:.4g}' for k, v in terms.items())}); the last good state is "
            f"that of step {good} in {self.states.folder}; lower the learning rate or look at the data"
        )

    def record(self, number: int) -> dict:
        """The log's record of the last step: terms as means over the processes, and how fast it went."""
        last = dict(self.unchecked)[number - 1]
        self.check()
        terms = self.processes.means({**last, **self.task.extras()})
        step_seconds = (time.monotonic() - self.marked) / (number - self.marked_step)
        self.marked, self.marked_step = time.monotonic(), number
        record = {"step": number, **terms, "step_seconds": round(step_seconds, 6), "memory_gb": round(self.memory() / 1e9, 3)}
        if self.processes.scaler:
            record["loss_scale"] = self.processes.scaler.get_scale()
        if self.batch:
            record["samples_per_second"] = round(self.batch / step_seconds, 3)
        mfu = self.utilisation(step_seconds)
        if mfu is not None:
            record["mfu"] = round(mfu, 4)
        return record

    def memory(self) -> int:
        """Bytes: the device's peak on a GPU, else the process's."""
        if self.processes.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.processes.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    def save(self, number: int) -> None:
        if not self.processes.main:
            return
        began = time.monotonic()
        self.states.save(number, {"step": number, "task": self.task.state(), "processes": self.processes.state()})
        step_seconds = (began - self.began) / (number - self.first)
        self.pause("save", time.monotonic() - began, round(self.engine.save_seconds / step_seconds))

    def draw(self, number: int) -> None:
        """A picture of where training stands; the other processes wait."""
        began = time.monotonic()
        if self.processes.main:
            self.sample(self.folder / "samples" / f"step_{number}.png")
        self.processes.wait()
        self.pause("sample", time.monotonic() - began, self.engine.sample_every)

    def pause(self, kind: str, seconds: float, every: int) -> None:
        self.marked += seconds
        self.progress.pause(kind, seconds, every)

    def stop(self, number: int) -> None:
        self.states.wait()
        if self.processes.main:
            print(f"{self.label}: asked to stop; state of step {number} saved, the same command goes on", file=sys.stderr)
        raise Stopped


def set_threads() -> None:
    """One intra-op thread unless the job was given more: the sizes run here gain little from two."""
    torch.set_num_threads(int(os.environ.get("REALS_THREADS", "1")))
