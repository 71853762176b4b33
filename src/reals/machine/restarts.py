"""The book of starts, in which jobs on nodes note when they begin and how they end: what went on, and what a further try is good for.

`reals.machine.dispatch` notes each start, the command line each end that decides on further tries.
"""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypedDict, cast

from reals import files
from reals.machine import dispatch

End = Literal["stopped", "hopeless"]
"""Stopped when asked to, with its state saved: the next try goes on. Hopeless: the next try would fail in the same way."""


class Start(TypedDict):
    """A line of the book."""

    began: float  # seconds since 1970
    job: str
    node: str
    command: list[str]


def note_end(how: End) -> None:
    """Notes how this SLURM job ends. Nothing elsewhere, or where the book cannot be written: the end then counts as a failure."""
    if dispatch.STARTS in os.environ and "SLURM_JOB_ID" in os.environ:
        row = {"ended": time.time(), "job": os.environ["SLURM_JOB_ID"], "how": how}
        with suppress(OSError):
            files.append_line(Path(os.environ[dispatch.STARTS]), row)


def how_it_ended(book: Path, job: str) -> End | None:
    """What SLURM job ``job`` noted since it last began; None where it was killed, or failed otherwise."""
    rows = [row for row in files.read_lines(book) if row.get("job") == job]
    return rows[-1].get("how") if rows else None


def started_again(book: Path, since: float) -> list[str]:
    """A line for each command that was started more than once since then (seconds since 1970)."""
    starts: dict[str, list[Start]] = {}
    for row in files.read_lines(book):
        if Start.__required_keys__ <= row.keys() and row["began"] >= since:
            starts.setdefault(" ".join(row["command"]), []).append(cast(Start, row))
    return [_line(command, rows) for command, rows in starts.items() if len(rows) > 1]


def _line(command: str, starts: list[Start]) -> str:
    times = len(starts) - 1
    each = ", ".join(f"job {s['job']} on {s['node']} {time.strftime('%H:%M:%S', time.localtime(s['began']))}" for s in starts)
    return (
        f"{command}: went on {times} time{'s' * (times > 1)} after a preemption, time limit, lost node or failure ({each}); "
        "the logs of each start say why"
    )
