"""A run's log.jsonl: one record a line, each step once; and the event files that tensorboard shows."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from reals import files
from reals.machine.signals import GO_ON

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

OF_THE_MACHINE = frozenset({"samples_per_second", "step_seconds", "mfu", "memory_gb"})
"""What a log record says of the machine and not of the training: different each time, so no part of any result."""


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

    def write(self, record: dict[str, float]) -> None:
        try:
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()
        except OSError as error:
            raise OSError(error.errno, f"{self.path}: a record could not be written ({error.strerror}); {GO_ON}") from None


def read_log(path: Path) -> list[dict]:
    """The records of a run's log in order of their steps."""
    return sorted(files.read_lines(path), key=lambda record: record["step"])


class Records:
    """Where a run's records go: log.jsonl, and tensorboard's event files beside it where they are asked for."""

    def __init__(self, folder: Path, step: int, last: int, events: bool):
        self.log = Log(folder / "log.jsonl", step, last)
        self.events = tensorboard(folder / "tensorboard", step) if events else None

    def write(self, record: dict[str, float]) -> None:
        self.log.write(record)
        if self.events is not None:
            for name, value in record.items():
                self.events.add_scalar(name, value, record["step"])

    def close(self) -> None:
        self.log.file.close()
        if self.events is not None:
            self.events.close()


def tensorboard(folder: Path, step: int) -> "SummaryWriter | None":
    """A writer of event files from ``step`` on, or None, with a line that says so, where tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("engine.tensorboard: the package tensorboard is not installed; log.jsonl holds the same numbers", file=sys.stderr)
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
