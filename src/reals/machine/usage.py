"""What a job uses of its machine: CPU seconds, those spent on the work itself, GPUs, energy."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reals.machine.world import world

_work_seconds = 0.0


_work_depth = 0


def cpu_seconds() -> float:
    """CPU time of this process and its finished children."""
    return sum(os.times()[:4])


@contextmanager
def work() -> Iterator[None]:
    """Marks training, sampling or evaluating, as opposed to starting up, importing and loading. Nests."""
    global _work_seconds, _work_depth
    began, _work_depth = cpu_seconds(), _work_depth + 1
    try:
        yield
    finally:
        _work_depth -= 1
        if _work_depth == 0:
            _work_seconds += cpu_seconds() - began


@contextmanager
def measured() -> Iterator[dict]:
    """A dict that holds, once the block is left without an error, its seconds: wall, cpu, and cpu spent on the work."""
    global _work_seconds
    began, cpu, _work_seconds = time.time(), cpu_seconds(), 0.0
    times: dict[str, float] = {}
    yield times
    times |= {"wall": round(time.time() - began, 3), "cpu": round(cpu_seconds() - cpu, 3), "work": round(_work_seconds, 3)}


def gpus_used() -> int | None:
    """How many GPUs this job computed on: one a process."""
    torch = sys.modules.get("torch")
    return world().size if torch is not None and torch.cuda.is_initialized() else None


def energy() -> dict[str, tuple[int, int]]:
    """Counters of the processor packages in microjoules, with the value they wrap at (RAPL); empty where not readable."""
    found = {}
    for package in sorted(Path("/sys/class/powercap").glob("intel-rapl:[0-9]*")):
        if package.name.count(":") == 1:
            try:
                found[package.name] = (
                    int((package / "energy_uj").read_text()),
                    int((package / "max_energy_range_uj").read_text()),
                )
            except (OSError, ValueError):
                continue
    return found


def energy_between(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> float | None:
    """Watt-hours between two readings, counters that wrapped once put right; None where nothing was readable."""
    joules = [((after[k][0] - before[k][0]) % after[k][1]) / 1e6 for k in before if k in after]
    return sum(joules) / 3600 if joules else None
