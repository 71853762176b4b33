"""Which commands SLURM had to start more than once, from the file in which `reals.machine.dispatch` notes each start."""

import time
from pathlib import Path
from typing import TypedDict, cast

from reals import files


class Start(TypedDict):
    """A line of that file."""

    began: float  # seconds since 1970
    job: str
    node: str
    command: list[str]


def started_again(book: Path, since: float) -> list[str]:
    """A line for each command that was started more than once since then (seconds since 1970)."""
    starts: dict[str, list[Start]] = {}
    for row in files.read_lines(book):
        if row["began"] >= since:
            starts.setdefault(" ".join(row["command"]), []).append(cast(Start, row))
    return [_line(command, rows) for command, rows in starts.items() if len(rows) > 1]


def _line(command: str, starts: list[Start]) -> str:
    times = len(starts) - 1
    each = ", ".join(f"job {s['job']} on {s['node']} {time.strftime('%H:%M:%S', time.localtime(s['began']))}" for s in starts)
    return (
        f"{command}: went on {times} time{'s' * (times > 1)} after a preemption, time limit, lost node or failure ({each}); "
        "the logs of each start say why"
    )
