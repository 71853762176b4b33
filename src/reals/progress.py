"""Progress of long work: one live line on a terminal, plain lines elsewhere, and an estimate of the time left."""

import re
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

LINE_SECONDS = 10.0  # between plain lines in a log file, once it has lasted; at first sooner, for who watches a short job
FIRST_SECONDS = 1.0
LINE_SHARE = 0.05  # of the time so far, between these two
LIVE_SECONDS = 0.2
RECENT = 200  # stretches behind the estimate
STARTING = 2  # updates after a start that do not count: loading, compiling, filling caches
OUTLIER = 5.0  # a stretch counts at most so many times the median: a machine that slept says nothing about the rest


LINE = re.compile(r": (?P<done>\d+/\d+(?:  \w+ [^\s]+)*)(?:  (?P<rate>\S+/s)  (?:ETA (?P<left>[\d:]+)|done in [\d:]+))?$")


def clock(seconds: float) -> str:
    """``1:02:03``, or ``2:03`` below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


@dataclass(frozen=True)
class Said:
    """What a line of `Progress` says: ``120/400  loss 0.25``, ``14.2/s`` and the seconds left, where it knows them."""

    done: str
    rate: str | None
    left: float | None


def said(text: str) -> Said | None:
    """The last line of progress in a log, or in its end; None where there is none."""
    found = next((line for line in map(LINE.search, reversed(text.splitlines())) if line), None)
    if found is None:
        return None
    left = found["left"]
    seconds = sum(60**i * int(part) for i, part in enumerate(reversed(left.split(":")))) if left else None
    return Said(found["done"], found["rate"], seconds)


class Progress:
    """Counts towards ``total`` from ``start`` (work done in an earlier process) and estimates the time left."""

    def __init__(
        self, label: str, total: int, start: int = 0, stream: TextIO | None = None, quiet: bool = False, now: Callable[[], float] = time.monotonic
    ):  # fmt: skip
        self.label, self.total, self.done = label, total, start
        self.stream, self.quiet, self.now = stream or sys.stderr, quiet, now
        self.live = self.stream.isatty()
        self.began = self.at = self.now()
        self.shown = self.began if start else float("-inf")
        self.seen = 0
        self.stretches: deque[tuple[int, float]] = deque(maxlen=RECENT)
        self.pauses: dict[str, tuple[float, int]] = {}
        if start and not quiet:
            print(f"{label}: resumed at {start} of {total}", file=self.stream, flush=True)

    def seconds_left(self) -> float | None:
        """Recent work per unit, times what is left, plus the pauses still to come; None before the first update."""
        if not self.stretches:
            return None
        per_unit = [seconds / units for units, seconds in self.stretches]
        limit = OUTLIER * statistics.median(per_unit)
        units = sum(u for u, _ in self.stretches)
        seconds = sum(min(s, limit * u) for u, s in self.stretches)
        left = self.total - self.done
        return seconds / units * left + sum(cost * (left // every) for cost, every in self.pauses.values())

    def pause(self, kind: str, seconds: float, every: int) -> None:
        """Counts ``seconds`` just spent apart from the work: a cost that returns about ``every`` so many units."""
        self.at += seconds
        old = self.pauses.get(kind, (seconds, every))[0]
        self.pauses[kind] = ((old + seconds) / 2, max(every, 1))

    def _pause(self, now: float) -> float:
        """Seconds between two lines."""
        return LIVE_SECONDS if self.live else min(LINE_SECONDS, max(FIRST_SECONDS, LINE_SHARE * (now - self.began)))

    def update(self, done: int, **values: float) -> None:
        now = self.now()
        if done > self.done:
            if self.seen <= STARTING:
                self.stretches.clear()
            self.seen += 1
            self.stretches.append((done - self.done, max(now - self.at, 1e-9)))
            self.done, self.at = done, now
        last = done >= self.total
        if self.quiet or (not last and now - self.shown < self._pause(now)):
            return
        self.shown = now
        left = self.seconds_left()
        text = f"{self.label}: {done}/{self.total}"
        text += "".join(f"  {name} {value:.4g}" for name, value in values.items())
        if left is not None:
            units, seconds = (sum(parts) for parts in zip(*self.stretches, strict=True))
            text += f"  {units / seconds:.3g}/s  " + ("done in " + clock(now - self.began) if last else "ETA " + clock(left))
        if self.live:
            print(f"\r\033[K{text}", end="\n" if last else "", file=self.stream, flush=True)
        else:
            print(text, file=self.stream, flush=True)
