"""Shows a run on a terminal, a line a running job and one for the whole, and as plain lines elsewhere; in place of Snakemake's own."""

import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from reals.cli.following import AGAIN, INSTEAD, SENT, Following

LIVE_SECONDS = 1.0  # between two drawings, and looks at the logs
CLUSTER_SECONDS = 10.0  # between looks at a shared file system
QUIET_SECONDS = 60.0  # without a plain line until one says what goes on
SCREEN = 24  # lines of a terminal that does not say how many it has


class NotOurs(logging.Filter):
    """Keeps from Snakemake's own handler what ``following`` tells of, while it does."""

    def __init__(self, following: Following):
        super().__init__()
        self.following = following

    def filter(self, record: logging.LogRecord) -> bool:
        if self.following.broken:
            return True
        if getattr(getattr(record, "event", None), "value", None) in INSTEAD:
            return False
        said = record.getMessage()
        return not (said == "Select jobs to execute..." or AGAIN.match(said) or SENT.match(said))


class Above:
    """A stream whose text appears above the live lines of ``screen``."""

    def __init__(self, stream: TextIO, screen: "Screen"):
        self._stream, self._screen = stream, screen

    def write(self, text: str) -> int:
        with self._screen.lock:
            self._screen.clear()
            return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Screen:
    """The live lines at the end of a terminal: drawn anew in place, each cut to the terminal's width."""

    def __init__(self, stream: TextIO):
        self.stream, self.lock, self.shown = stream, threading.RLock(), 0

    def draw(self, lines: list[str], last: str) -> None:
        size = shutil.get_terminal_size((80, SCREEN))
        most = max(size.lines - 2, 1)
        if len(lines) > most:
            lines = [*lines[: most - 1], f"and {len(lines) - most + 1} more"]
        texts = [text[: size.columns - 1] for text in [*lines, last]]
        with self.lock:
            self.clear()
            self.stream.write("".join(f"{text}\n" for text in texts))
            self.stream.flush()
            self.shown = len(texts)

    def clear(self) -> None:
        with self.lock:
            if self.shown:
                self.stream.write(f"\033[{self.shown}F\033[J")
                self.stream.flush()
                self.shown = 0


def live(stream: TextIO) -> bool:
    """Whether lines can be drawn anew there."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


class AtOnce(logging.Handler):
    """Draws as jobs start: a short one would have ended before the next drawing."""

    def __init__(self, following: Following, screen: Screen):
        super().__init__()
        self.following, self.screen = following, screen

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(getattr(record, "event", None), "value", None) == "job_started":
            with suppress(Exception), self.following.held:  # a fault in what is shown must not stop the work
                _draw(self.following, self.screen)


@contextmanager
def shown(make: Callable[[Callable[[str], None]], Following], logger: logging.Logger) -> Iterator[None]:
    """Shows what ``make`` follows, given where to tell its lines, until the block ends.

    Nothing where another plugin of Snakemake's writes to the terminal.
    """
    own = next((handler for handler in logger.handlers if handler.name == "DefaultStreamHandler"), None)
    if not isinstance(own, logging.StreamHandler):
        yield
        return
    stream = sys.stderr
    screen = Screen(stream) if live(stream) else None
    told, ended = threading.Event(), threading.Event()

    def tell(line: str) -> None:
        if screen is None or line.startswith("reals: "):
            print(line, file=sys.stderr, flush=True)
            told.set()

    following, before = make(tell), own.stream
    instead = NotOurs(following)
    if screen is not None:
        sys.stderr = Above(stream, screen)
        if before is stream:
            own.setStream(sys.stderr)
    own.addFilter(instead)
    logger.addHandler(following)
    at_once = None if screen is None else AtOnce(following, screen)
    if at_once is not None:
        logger.addHandler(at_once)  # behind ``following``, which takes the record in
    keep = (_keep_drawing, (following, screen, ended)) if screen is not None else (_remind, (following, tell, told, ended))
    thread = threading.Thread(target=keep[0], args=keep[1], daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        told.set()
        thread.join(timeout=CLUSTER_SECONDS)
        logger.removeHandler(following)
        own.removeFilter(instead)
        if screen is not None and at_once is not None:
            logger.removeHandler(at_once)
            screen.clear()
            own.setStream(before)
            sys.stderr = stream


def _keep_drawing(following: Following, screen: Screen, ended: threading.Event) -> None:
    """Draws what goes on, again and again."""
    looked = float("-inf")
    while not ended.wait(LIVE_SECONDS):
        with suppress(Exception), following.held:  # a fault in what is shown must not stop the work
            if time.monotonic() - looked >= (LIVE_SECONDS if following.book is None else CLUSTER_SECONDS):
                following.look()
                looked = time.monotonic()
            _draw(following, screen)


def _draw(following: Following, screen: Screen) -> None:
    if following.printing or following.broken:
        screen.clear()
    else:
        screen.draw(list(following.lines()), following.summary())


def _remind(following: Following, tell: Callable[[str], None], told: threading.Event, ended: threading.Event) -> None:
    """Tells what goes on where nothing else was told for a minute."""
    last = time.monotonic()
    while not ended.is_set():
        if told.wait(QUIET_SECONDS if following.book is None else CLUSTER_SECONDS):
            told.clear()
            last = time.monotonic()
        with suppress(Exception), following.held:
            following.look()
            if time.monotonic() - last >= QUIET_SECONDS and following.states and not following.broken:
                tell("; ".join([following.summary(), *following.lines()]))
