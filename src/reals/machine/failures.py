"""One line for each job that fails, when it fails: what, why, and where to read more. Snakemake's own report is a page, or hidden."""

import logging
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeGuard

from reals.machine.last_words import cause

SLURM = re.compile(r"SLURM-job '(?P<job>\S+)' failed.*?(?:status is: '(?P<state>\w+)'|node failure)", re.DOTALL)


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


def line(record: logging.LogRecord | FailedJob) -> str | None:
    """The line for one of Snakemake's log records; None where it does not tell of a failed job."""
    if not _is_failed_job(record):
        return None
    ended = SLURM.search(record.rule_msg or "")
    how = f" (SLURM job {ended['job']}: {ended['state'] or 'NODE_FAIL'})" if ended else ""
    logs = [Path(path) for path in record.log]
    said = next(
        (words for words in map(_last_words, logs) if words),
        record.rule_msg or "it ended without a word (killed, or out of memory)",
    )
    made = record.output[0] if record.output else ""
    return f"{record.rule_name} {made}{how}: {' '.join(said.split())}" + (f" [{logs[0]}]" if logs else "")


def _last_words(log: Path) -> str | None:
    try:
        return cause(log.read_text(errors="replace"))
    except OSError:
        return None


class Lines(logging.Handler):
    """Prints them, as they come, to standard error, each with what ``outlook`` says of further tries."""

    def __init__(self, outlook: Callable[[FailedJob], str]):
        super().__init__()
        self.outlook = outlook

    def emit(self, record: logging.LogRecord) -> None:
        if _is_failed_job(record):
            print(f"reals: {line(record)}{self.outlook(record)}", file=sys.stderr, flush=True)
