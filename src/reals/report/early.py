"""The page while a run goes on: drawn again as results come, by a thread of snakemake's process, at a bounded share of a core.

The rule `report` draws the finished page. It waits for every number, and this draws only while one is missing, so that the two never
meet. An early page bears a date of long ago: to Snakemake it is older than what the finished one is made from, whatever ended the run.
"""

import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from reals.experiment.graph import Graph
from reals.experiment.registry import Registry

LOOK = 5.0  # seconds between looks at what is measured
PAUSE = 20.0  # seconds at least between two pages
SHARE = 0.01  # of a core at most: a page that took s seconds is followed by s / SHARE without one
STALE = 60.0  # seconds after which a page is drawn although nothing is new, for what runs now;
LONG = 0.05  # in a long run, after this part of its time so far
LONG_AGO = 10 * 365 * 86400.0  # seconds
LAST = 10.0  # seconds that the end of a run waits for a page that is being drawn


@dataclass(frozen=True)
class Work:
    """Names of the jobs that run, and of those that still wait."""

    running: Sequence[str]
    waiting: Sequence[str]


class Pages:
    """Draws the pages of one run, and decides when."""

    def __init__(self, registry: Registry, work: Callable[[], Work], now: Callable[[], float] = time.monotonic):
        self.registry, self.work, self.now = registry, work, now
        self.log = registry.root / "logs" / "early.log"
        self.metrics = Graph(registry).metrics()
        self.began = self.last = now()
        self.shown = self.measured()  # as in the page drawn last; at first, what earlier runs measured
        self.took: float | None = None  # CPU seconds of the page drawn last; None: none was

    def measured(self) -> int:
        return sum(path.exists() for path in self.metrics)

    def due(self, measured: int) -> bool:
        """If a page is to be drawn now: at the first new number, then where one is new or the page is stale, but seldom enough."""
        if measured == len(self.metrics):
            return False
        new = measured != self.shown
        if self.took is None and new:
            return True
        since, pause = self.now() - self.last, max(PAUSE, (self.took or 0.0) / SHARE)
        return since >= (pause if new else max(pause, STALE, LONG * (self.now() - self.began)))

    def draw(self, *, going: bool = True) -> None:
        """One page, and a line in the log; a fault is a traceback there and nothing else."""
        began = time.thread_time()
        try:
            said = self._draw(self.measured(), going)
        except Exception:
            said = traceback.format_exc().rstrip()
        self.took, self.last = time.thread_time() - began, self.now()
        with suppress(OSError):
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("a") as log:
                log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {said}; {self.took:.2f} CPU-seconds\n")

    def _draw(self, measured: int, going: bool) -> str:
        from reals.report import assembly, page, results  # not at the start of every snakemake

        self.shown = measured
        work = self.work()
        at = time.strftime("%Y-%m-%d %H:%M")
        unfinished = page.Unfinished(measured, len(self.metrics), at, work.running if going else (), work.waiting, going)
        ready = self.log.with_name("early.html")
        assembly.write_page(ready, self.registry, results.load(self.registry), unfinished=unfinished)
        old = time.time() - LONG_AGO
        os.utime(ready, (old, old))
        if self.measured() == len(self.metrics):
            ready.unlink()
            return "left to the rule report, for all is measured"
        ready.replace(self.registry.root / "report.html")
        return f"drawn, {measured} of {len(self.metrics)} results measured"

    def end(self) -> None:
        """The run has ended: a page that says so, if one said that it goes on or if there is something new to show."""
        measured = self.measured()
        if measured < len(self.metrics) and (self.took is not None or measured != self.shown):
            self.draw(going=False)


@contextmanager
def redrawn(registry: Registry, work: Callable[[], Work]) -> Iterator[None]:
    """The page is drawn again and again inside the block; ``work`` says what runs, asked from another thread."""
    pages, ended = Pages(registry, work), threading.Event()

    def follow() -> None:
        while not ended.wait(LOOK):
            if pages.due(pages.measured()):
                pages.draw()

    thread = threading.Thread(target=follow, name="early page", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(LAST)
        if not thread.is_alive():
            pages.end()
