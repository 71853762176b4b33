"""How fast a run goes: seconds a step, without what saves and pictures take, and the estimate of the time left."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from reals.progress import Progress


class Pace:
    """Times the steps from ``done`` to ``steps`` and shows them as progress."""

    def __init__(self, label: str, steps: int, done: int, quiet: bool):
        self.progress = Progress(label, steps, done, quiet=quiet)
        self.began = self.marked = time.monotonic()
        self.first = self.marked_step = done

    @property
    def elapsed(self) -> float:
        """Seconds since the run began, or went on."""
        return time.monotonic() - self.began

    def lap(self, step: int) -> float:
        """Seconds a step since the lap before."""
        now = time.monotonic()
        seconds = (now - self.marked) / (step - self.marked_step)
        self.marked, self.marked_step = now, step
        return seconds

    def steps_in(self, seconds: float, step: int) -> int:
        """How many steps take so long, at the mean speed up to ``step``."""
        return round(seconds * (step - self.first) / self.elapsed)

    @contextmanager
    def pause(self, kind: str, every: int) -> Iterator[None]:
        """Leaves what the block takes out of the steps' time; it returns about ``every`` so many steps."""
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        self.marked += seconds
        self.progress.pause(kind, seconds, every)
