"""The one training loop: run a task's steps, log them, save its state, resume exactly, stop when told."""

import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path

import torch

from reals import files
from reals.experiment.engine import EngineConfig
from reals.machine.cores import threads
from reals.machine.signals import GO_ON, stop_requests
from reals.machine.usage import work
from reals.training.finite import Watch
from reals.training.log import Records
from reals.training.pace import Pace
from reals.training.processes import Agreed, PeerLost, Processes, is_peer_loss
from reals.training.profile import Profile
from reals.training.states import States
from reals.training.task import Task

LOCK_SECONDS = 60.0  # a predecessor that was told to stop may still be saving
REPORTED_SECONDS = 60.0  # a shorter run does not say what its states cost
FIRST_STEPS = 3  # shown one by one, so that a run is seen to move before its first log record


class Stopped(Agreed):
    """Raised once the state is saved after a request to stop."""


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
    ``engine.profile`` has the times of some steps written to ``folder``/profile.

    Raises NotFinite (step and terms named, last good state kept), Stopped after saving on SIGTERM, SIGUSR1 or SIGINT to
    any process, PeerLost where another process is gone, and OSError where a state or the log cannot be written.
    """
    processes, engine = processes or Processes(), engine or EngineConfig()
    saved = States(states or folder / "state", {*keep, steps})
    with _peer_loss_named(processes, label, saved), stop_requests() as stops, _lock(folder, processes), _loading(task):
        done = _resume(task, steps, processes, saved, folder)
        with saved, _records(folder, done, steps, processes, engine) as records:
            watch, pace = Watch(label, processes, saved), Pace(label, steps, done, quiet=not processes.main)
            profile = Profile(folder / "profile", engine.profile if processes.main else None)
            shown: dict[str, float] = {}
            waited, logged_before = _waited(task), done
            last_save = time.monotonic()

            def save(made: int) -> None:
                if processes.main:
                    with pace.pause("save", pace.steps_in(engine.save_seconds, made)):
                        saved.save(made, {"step": made, "task": task.state(), "processes": processes.state()})

            with work(), profile:
                for step in range(done, steps):
                    made, last = step + 1, step + 1 == steps
                    profile.before(made)
                    terms = task.update(step)
                    watch.add(step, terms)
                    logged = made % engine.log_every == 0 or last

                    # One answer for all processes: whether anyone was asked to stop, whether it is time to save.
                    due = processes.main and not saved.busy and time.monotonic() - last_save > engine.save_seconds
                    if due:
                        last_save = time.monotonic()
                    stop, time_to_save = processes.vote(bool(stops), due)

                    if logged:
                        watch.check()
                        waiting = (_waited(task) - waited) / (made - logged_before)
                        waited, logged_before = _waited(task), made
                        means = processes.means({**terms, **task.extras(), "data_wait": waiting})
                        record = _record(made, means, pace.lap(made), processes, batch, utilisation)
                        shown = {"loss": record["loss"]}
                        if records is not None:
                            records.write(record)

                    if (stop or time_to_save) and not last:
                        watch.check()  # a state that was saved is good
                        save(made)
                        if stop:
                            profile.after(made)
                            saved.wait()
                            _say_stopped(label, made, processes)
                            raise Stopped

                    if sample is not None and engine.sample_every and made % engine.sample_every == 0:
                        with pace.pause("sample", engine.sample_every):
                            if processes.main:
                                sample(folder / "samples" / f"step_{made}.png")
                            processes.wait()

                    # A stretch of the estimate ends where the device is known to be done: on a GPU, at the log's steps.
                    if processes.device.type == "cpu" or logged or made - done <= FIRST_STEPS:
                        pace.progress.update(made, **shown)
                    saved.check()
                    profile.after(made)
            if done < steps:
                save(steps)
        if processes.main:
            _say_what_saving_cost(label, saved, pace.elapsed)


@contextmanager
def _peer_loss_named(processes: Processes, label: str, states: States) -> Iterator[None]:
    """Turns an exchange that failed because another process is gone into PeerLost."""
    try:
        yield
    except Exception as error:
        if processes.count > 1 and is_peer_loss(error):
            raise PeerLost(f"{label}: another process of this run is gone; {GO_ON} ({states.folder})") from error
        raise


def _lock(folder: Path, processes: Processes) -> AbstractContextManager:
    """Against a second run; the main process holds it for all."""
    return files.lock(folder / ".lock", str(folder), LOCK_SECONDS) if processes.main else nullcontext()


@contextmanager
def _loading(task: Task) -> Iterator[None]:
    """Whatever happens inside, no thread that makes batches is left."""
    try:
        yield
    finally:
        if task.batches is not None:
            task.batches.close()


def _resume(task: Task, steps: int, processes: Processes, states: States, folder: Path) -> int:
    """Brings the task to its newest whole state; the steps that are done then."""
    if processes.main:
        states.tidy()
        files.sweep(folder / "log.jsonl")
    done = processes.from_main(states.newest(steps) if processes.main else 0)
    if done:
        # On a GPU nothing of it stays in host memory; a CPU's optimizer keeps the very tensors that it is given.
        loaded = states.read(done, mapped=processes.device.type != "cpu")
        task.load(loaded["task"])
        processes.load(loaded.get("processes", {}))
    return done


def _records(
    folder: Path, done: int, steps: int, processes: Processes, engine: EngineConfig
) -> AbstractContextManager[Records | None]:
    """The log, open in the main process alone."""
    return closing(Records(folder, done, steps, engine)) if processes.main else nullcontext()


def _record(
    made: int,
    terms: dict[str, float],
    step_seconds: float,
    processes: Processes,
    batch: int | None,
    utilisation: Callable[[float], float | None],
) -> dict[str, float]:
    """The log's record of a step: its terms, and how fast and how large the training is."""
    memory = round(_memory(processes) / 1e9, 3)
    record = {"step": made, **terms, "step_seconds": round(step_seconds, 6), "memory_gb": memory}
    if processes.scaler:
        record["loss_scale"] = processes.scaler.get_scale()
    if batch:
        record["samples_per_second"] = round(batch / step_seconds, 3)
    mfu = utilisation(step_seconds)
    if mfu is not None:
        record["mfu"] = round(mfu, 4)
    return record


def _waited(task: Task) -> float:
    """Seconds that the task's steps have waited for their batches."""
    return task.batches.waited if task.batches is not None else 0.0


def _memory(processes: Processes) -> int:
    """Bytes: the device's peak on a GPU, else the process's."""
    if processes.device.type == "cuda":
        return torch.cuda.max_memory_allocated(processes.device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _say_stopped(label: str, made: int, processes: Processes) -> None:
    if processes.main:
        print(f"{label}: asked to stop; state of step {made} saved, the same command goes on", file=sys.stderr)


def _say_what_saving_cost(label: str, states: States, elapsed: float) -> None:
    if elapsed > REPORTED_SECONDS:
        print(
            f"{label}: {states.written} states of {states.bytes / 1e6:,.1f} MB written in the background; "
            f"training waited {states.stalled:.2f} s for them ({states.stalled / elapsed:.1%})",
            file=sys.stderr,
        )


def set_threads() -> None:
    """PyTorch's, as many as the job was given (`cores.threads`)."""
    torch.set_num_threads(threads())
