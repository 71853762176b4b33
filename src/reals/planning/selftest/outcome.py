"""One check of the selftest and what came of it; whatever a check raises becomes a line, and the next one runs."""

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PACKAGE = Path(__file__).parents[2]
LINE = 300  # characters of an error's message that are shown

Mark = Literal["ok", "FAIL", "skip"]


class Fault(Exception):
    """Something is not as it must be: what, in one line."""


class Skipped(Exception):
    """The check says nothing on this machine: why, in one line."""


@dataclass(frozen=True)
class Check:
    """``look`` looks whether ``what`` is as it must be; ``advice`` is what to do where it is not. ``dear`` ones take long."""

    what: str
    look: Callable[[], str]
    advice: str
    dear: bool = False


@dataclass(frozen=True)
class Result:
    """What came of one check: ``said`` are its numbers, what is wrong and what to do, or why it says nothing here."""

    what: str
    mark: Mark
    said: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.mark:<4} {self.what}: {self.said}"


def results(checks: Iterable[Check]) -> Iterator[Result]:
    """The result of each check as it is done. An exception is a failed check; only KeyboardInterrupt and its like end all."""
    for check in checks:
        began = time.monotonic()
        mark: Mark = "ok"
        try:
            said = check.look()
        except Skipped as reason:
            mark, said = "skip", str(reason)
        except Fault as fault:
            mark, said = "FAIL", f"{fault}; {check.advice}"
        except Exception as error:
            mark, said = "FAIL", f"{_told(error)}; {check.advice}"
        yield Result(check.what, mark, " ".join(said.split()), round(time.monotonic() - began, 2))


def _told(error: Exception) -> str:
    """An unexpected error in one line, with the place in this package where it came up."""
    message = " ".join(str(error).split())[:LINE]
    places = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(PACKAGE)]
    last = places[-1]
    return f"{type(error).__name__} at {Path(last.filename).relative_to(PACKAGE)}:{last.lineno}: {message}"
