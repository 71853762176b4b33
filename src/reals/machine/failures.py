"""What is said of each job that fails, when it fails: one line that says what, why, and where to read more, and the end of its log.

Snakemake's own report is a page, or hidden.
"""

import logging
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeGuard

from reals.machine.last_words import cause
from reals.progress import LINE

SLURM = re.compile(r"SLURM-job '(?P<job>\S+)' failed.*?(?:status is: '(?P<state>\w+)'|node failure)", re.DOTALL)


SILENT = "it ended without a word (killed, or out of memory)"
LAST, WIDEST = 8, 200  # lines of its log that are shown, and characters of each


class FailedJob(Protocol):
    """What Snakemake's log record of a failed job carries."""

    jobid: int
    rule_name: str
    rule_msg: str | None
    log: Sequence[str]
    output: Sequence[str]


def _is_failed_job(record: logging.LogRecord | FailedJob) -> TypeGuard[FailedJob]:
    return getattr(getattr(record, "event", None), "value", None) == "job_error"


def slurm_job(record: FailedJob) -> str | None:
    """The SLURM job that failed."""
    ended = SLURM.search(record.rule_msg or "")
    return ended["job"] if ended else None


def line(record: logging.LogRecord | FailedJob, name: str | None = None) -> str | None:
    """The line for one of Snakemake's log records; None where it does not tell of a failed job.

    ``name`` is what people call the job; without, it is known by its rule and its file.
    """
    if not _is_failed_job(record):
        return None
    ended = SLURM.search(record.rule_msg or "")
    how = f" (SLURM job {ended['job']}: {ended['state'] or 'NODE_FAIL'})" if ended else ""
    logs = [Path(path) for path in record.log]
    said = next((words for words in map(_last_words, logs) if words), record.rule_msg or SILENT)
    if LINE.search(said):  # its progress, and nothing since
        said = f"{SILENT}, at {said}"
    made = record.output[0] if record.output else ""
    what = f"{name} failed" if name else f"{record.rule_name} {made}"
    return f"{what}{how}: {' '.join(said.split())}" + (f" [{logs[0]}]" if logs else "")


def end_of_log(record: FailedJob) -> list[str]:
    """The last lines of its log that are no progress; none where one line is all there is, which is the cause."""
    for path in map(Path, record.log):
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            continue
        telling = [line.rstrip()[:WIDEST] for line in lines if line.strip() and not LINE.search(line)]
        return telling[-LAST:] if len(telling) > 1 else []
    return []


def _last_words(log: Path) -> str | None:
    try:
        return cause(log.read_text(errors="replace"))
    except OSError:
        return None


class Lines(logging.Handler):
    """Prints them, as they come, to standard error, each with what ``outlook`` says of further tries.

    ``called`` says what people call a job, None where it does not know.
    """

    def __init__(self, outlook: Callable[[FailedJob], str], called: Callable[[FailedJob], str | None] = lambda failed: None):
        super().__init__()
        self.outlook, self.called = outlook, called

    def emit(self, record: logging.LogRecord) -> None:
        if _is_failed_job(record):
            said = [
                f"reals: {line(record, self.called(record))}{self.outlook(record)}",
                *(f"    | {text}" for text in end_of_log(record)),
            ]
            print("\n".join(said), file=sys.stderr, flush=True)
