"""The one training loop: run a task's steps, log them, save its state, resume exactly, stop when told."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from reals import files, rng
from reals.journal import work
from reals.progress import Progress

EXIT_STOPPED = 75  # asked to stop (SIGTERM, SIGUSR1), state saved: run the same command again
KEPT_STATES = 2
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
LOCK_SECONDS = 60.0  # a predecessor that was told to stop may still be saving


class Stopped(Exception):
    """Raised once the state is saved after a request to stop."""


class Task(Protocol):
    """What is trained. ``update(step)`` makes optimizer step number ``step`` (from 0) and depends on nothing else."""

    def update(self, step: int) -> dict[str, Tensor]:
        """One step; its loss terms as detached scalars, ``loss`` among them."""

    def state(self) -> dict:
        """Everything `update` changes: tensors, numbers, lists and dicts of them."""

    def load(self, state: dict) -> None: ...


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
    if _last_epoch[0] != (seed, epoch, n):
        _last_epoch = ((seed, epoch, n), rng.permutation(seed, "data order", epoch, n=n))
    return _last_epoch[1]


@torch.no_grad()
def update_ema(ema: list[Tensor], parameters: Iterable[Tensor], decay: float) -> None:
    """ema <- decay * ema + (1 - decay) * parameters."""
    torch._foreach_lerp_(ema, list(parameters), 1 - decay)


def state_path(folder: Path, step: int) -> Path:
    return folder / "state" / f"step_{step:08d}.pt"


def save_state(folder: Path, step: int, task: Task, keep: set[int]) -> None:
    """Writes the state of ``step`` and its checksum, then removes older ones beyond the last two, except ``keep``."""
    path = state_path(folder, step)
    files.write_atomically(path, lambda partial: torch.save({"step": step, "task": task.state()}, partial))
    files.write_text(path.with_suffix(".sha256"), files.sha256(path))
    for old in _states(folder)[:-KEPT_STATES]:
        if old not in keep:
            state_path(folder, old).with_suffix(".sha256").unlink(missing_ok=True)
            state_path(folder, old).unlink(missing_ok=True)


def _states(folder: Path) -> list[int]:
    return sorted(int(p.stem.removeprefix("step_")) for p in (folder / "state").glob("step_*.sha256"))


def load_state(folder: Path, upto: int, task: Task) -> int:
    """Loads the newest whole state not beyond ``upto``; its step, or 0 where there is none.

    A state whose checksum differs is said loudly and passed over for the one before it.
    """
    for step in reversed([s for s in _states(folder) if s <= upto]):
        path = state_path(folder, step)
        expected = path.with_suffix(".sha256").read_text().strip()
        if not path.exists() or files.sha256(path) != expected:
            print(f"WARNING: {path} is damaged (checksum differs); going back to the state before it", flush=True)
            continue
        task.load(torch.load(path, map_location="cpu", weights_only=True)["task"])
        return step
    return 0


class Log:
    """log.jsonl of a run: one line a record; records beyond the resumed step are dropped on opening."""

    def __init__(self, path: Path, step: int):
        if path.exists():
            lines = path.read_text().splitlines()
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
            if kept != lines:
                files.write_text(path, "".join(line + "\n" for line in kept))
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("a")

    def write(self, record: dict) -> None:
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()


def read_log(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextmanager
def stop_requests():
    """A list that becomes non-empty when a scheduler warns this process (SIGTERM, SIGUSR1) or a person stops it (Ctrl-C)."""
    seen: list[int] = []
    old = {s: signal.signal(s, lambda number, frame: seen.append(number)) for s in STOP_SIGNALS}
    try:
        yield seen
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def train(
    task: Task,
    folder: Path,
    steps: int,
    *,
    label: str,
    log_every: int = 10,
    save_seconds: float = 300.0,
    keep: Iterable[int] = (),
) -> None:
    """Brings ``task`` to exactly ``steps``, from the newest state in ``folder`` or from the start.

    Killed at any instant, the same call goes on from the last state and ends with the same bits, since every step
    is a function of its number. Saves every ``save_seconds`` and at the end; states of the steps in ``keep`` are
    never removed. Raises FloatingPointError (step and terms named, last good state kept) on a non-finite loss and
    Stopped after saving on SIGTERM or SIGUSR1.
    """
    kept = {*keep, steps}
    with stop_requests() as stops, files.lock(folder / ".lock", str(folder), LOCK_SECONDS):
        done = load_state(folder, steps, task)
        log = Log(folder / "log.jsonl", done)
        progress = Progress(label, steps, done)
        saved = time.monotonic()
        began = time.monotonic()
        with work():
            for step in range(done, steps):
                terms = task.update(step)
                if not torch.isfinite(terms["loss"]):
                    values = ", ".join(f"{k} {float(v):.4g}" for k, v in terms.items())
                    raise FloatingPointError(
                        f"{label}: the loss is not finite at step {step} ({values}); the last good state is that of step "
                        f"{max([0, *_states(folder)])} in {folder / 'state'}; lower the learning rate or look at the data"
                    )
                number = step + 1
                if number % log_every == 0 or number == steps:
                    values = {k: float(v) for k, v in terms.items()}
                    rate = (number - done) / (time.monotonic() - began)
                    log.write({"step": number, **values, "steps_per_second": round(rate, 3)})
                    progress.update(number, loss=values["loss"])
                if stops or time.monotonic() - saved > save_seconds:
                    save_state(folder, number, task, kept)
                    saved = time.monotonic()
                    if stops:
                        print(f"{label}: asked to stop; state of step {number} saved, the same command goes on", file=sys.stderr)
                        raise Stopped
        if done < steps:
            save_state(folder, steps, task, kept)


def set_threads() -> None:
    """One intra-op thread unless the job was given more: the sizes run here gain little from two."""
    torch.set_num_threads(int(os.environ.get("REALS_THREADS", "1")))
