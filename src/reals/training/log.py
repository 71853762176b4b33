"""A run's log.jsonl: one record a line, each step once; and the same for TensorBoard and Weights & Biases."""

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from reals import files
from reals.experiment.engine import EngineConfig
from reals.machine.signals import GO_ON

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

OF_THE_MACHINE = frozenset({"samples_per_second", "step_seconds", "data_wait", "mfu", "memory_gb"})
"""What a log record says of the machine and not of the training: different each time, so no part of any result."""


class Log:
    """log.jsonl of a run: one line a record.

    On opening, the records of the steps that are about to be made (beyond ``step``, up to ``last``) are dropped, and those
    of later steps, which an earlier call made, stay.
    """

    def __init__(self, path: Path, step: int, last: int):
        self.path = path
        if path.exists():
            lines = path.read_text(errors="replace").splitlines()
            kept = [json.dumps(record) for record in read_log(path) if not step < record["step"] <= last]
            # A file with other names is not only ours: DVC links what it pulls to its cache.
            if kept != lines or path.is_symlink() or path.stat().st_nlink > 1:
                files.write_text(path, "".join(line + "\n" for line in kept))
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("a")

    def write(self, record: dict[str, float]) -> None:
        try:
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()
        except OSError as error:
            raise OSError(error.errno, f"{self.path}: a record could not be written ({error.strerror}); {GO_ON}") from None


def read_log(path: Path) -> list[dict]:
    """The records of a run's log in order of their steps."""
    return sorted((r for r in files.read_lines(path) if isinstance(r.get("step"), int)), key=lambda record: record["step"])


class Records:
    """Where a run's records go: log.jsonl, and what ``engine.tensorboard`` and ``engine.wandb`` ask for beside it."""

    def __init__(self, folder: Path, step: int, last: int, engine: EngineConfig):
        self.log = Log(folder / "log.jsonl", step, last)
        self.events = tensorboard(folder / "tensorboard", step) if engine.tensorboard else None
        self.wandb = wandb(folder, "reals" if engine.wandb is True else engine.wandb) if engine.wandb else None

    def write(self, record: dict[str, float]) -> None:
        self.log.write(record)
        if self.events is not None:
            for name, value in record.items():
                self.events.add_scalar(name, value, record["step"])
        if self.wandb is not None:
            self.wandb.write(record)

    def close(self) -> None:
        self.log.file.close()
        if self.events is not None:
            self.events.close()
        if self.wandb is not None:
            self.wandb.close()


def tensorboard(folder: Path, step: int) -> "SummaryWriter | None":
    """A writer of event files from ``step`` on, or None, with a line that says so, where tensorboard cannot be imported."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except Exception as error:
        _say_without("tensorboard", error)
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


class Wandb:
    """The run of Weights & Biases that has the artefact's id (its folder's name): a training that is resumed goes on in it.

    Offline, in ``folder``/wandb, unless WANDB_MODE says otherwise or who runs it is logged in and the server answers. What
    fails is said once, and no more is sent: training does not need it.
    """

    def __init__(self, package: ModuleType, folder: Path, project: str):
        self.package = package
        self.run: Any = None  # no more is written where it is None
        self.run = self._attempt(
            lambda: package.init(
                project=project, id=folder.name, name=folder.name, dir=str(folder), resume="allow", mode=self._mode(),
                settings=package.Settings(console="off"),
            )
        )  # fmt: skip

    def _mode(self) -> str | None:
        if "WANDB_MODE" in os.environ:
            return None  # the package reads it
        try:
            return "online" if self.package.login(prompt=False) else "offline"
        except Exception:  # of many kinds: a key that is refused, no network
            return "offline"

    def write(self, record: dict[str, float]) -> None:
        if self.run is not None:
            self._attempt(lambda: self.run.log(record, step=record["step"]))

    def close(self) -> None:
        if self.run is not None:
            self._attempt(lambda: self.run.finish())

    def _attempt(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            print(f"engine.wandb: {type(error).__name__}: {reason}; log.jsonl holds the same numbers", file=sys.stderr)
            self.run = None


def wandb(folder: Path, project: str) -> Wandb | None:
    """A run of ``project``, or None, with a line that says so, where wandb cannot be imported."""
    try:
        package = importlib.import_module("wandb")
    except Exception as error:
        _say_without("wandb", error)
        return None
    return Wandb(package, folder, project)


def _say_without(package: str, error: Exception) -> None:
    """One that does not fit the numpy or protobuf beside it raises anything on import."""
    why = "is not installed" if isinstance(error, ImportError) else f"cannot be imported ({type(error).__name__})"
    print(f"engine.{package}: the package {package} {why}; log.jsonl holds the same numbers", file=sys.stderr)
