"""Why a job failed, as its log tells it: the line that is the cause, and not what libraries, launchers and other processes add."""

import re
import signal
from collections.abc import Iterator
from typing import NamedTuple

from reals.machine.signals import GO_ON

LONGEST = 400  # characters that are shown; the log holds the rest

BEFORE = re.compile(r"^(?:\s*\d+: )?(?:\[rank\d+\]: ?)?(?:\s*[|+] ?)?")  # srun's label, torch's, a group's margin
TRACEBACK = "Traceback (most recent call last):"
MEMBER = re.compile(r"^\s*\+?-\+?-+ \d+ -+$")  # begins one of an exception group
ERROR = re.compile(r"^(?P<kind>[A-Za-z_][\w.]*)(?:: ?(?P<said>.*))?$")
OWN = re.compile(r"^reals\b[\w .-]*: \S")
NOTICE = re.compile(r"^reals\b[\w .-]*: (?:ignored |.*; caches go to )")  # said at the start
LAUNCHER = ("torch.distributed.elastic.",)  # its errors say that a process failed, which then has a better one
FATAL = re.compile(r"^(?:Fatal Python error: |\s*what\(\):  ).+|.*\boom[_-]kill|^slurmstepd: error: .*(?:LIMIT|CANCELLED)")
KILLED = re.compile(r"failed \(exitcode: -(?P<signal>\d+)\)")
NOISE = re.compile(
    r"^\s*$|^[=*+-]+$|^[WEI]\d{4} \d\d:\d\d:\d\d"  # rules, glog's lines
    r"|^\s*(?:time|host|rank|exitcode|error_file|traceback) +: |^\[\d+\]:$|^(?:Failures|Root Cause.*):$| FAILED$"  # torchrun's summary
    r"|^Set TORCH|^You can suppress this|^For debugging consider|^Compile with `TORCH_USE|^CUDA kernel errors might|^Search for `cuda"
    r"|^Setting OMP_NUM_THREADS|^Exception raised from |^frame #\d+: "
)


class Error(NamedTuple):
    """An exception in a log: its type, and the first line of its message, or the line that a library puts after 'Last error:'."""

    kind: str
    said: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.said}" if self.said else self.kind

    @property
    def of_others(self) -> bool:
        """Whether it says that another process is gone, and not why."""
        return self.kind.startswith("torch.distributed.Dist") or "gloo" in self.said


def cause(log: str) -> str | None:
    """The one line that says why; None where the log says nothing.

    It is what `reals` itself said at the end, else the last exception, else a crash or a kill, else the last line that is no noise.
    """
    lines = [BEFORE.sub("", line) for line in log.splitlines()]
    telling = [line for line in lines if not NOISE.search(line) and GO_ON not in line]
    if telling and OWN.match(telling[-1]) and not NOTICE.match(telling[-1]):
        return _short(telling[-1])
    errors = list(_errors(lines))
    own = [line for line in telling if OWN.match(line) and not NOTICE.match(line)]
    found = (
        next((str(error) for error in reversed(errors) if not error.of_others), None)
        or next((line.strip() for line in reversed(lines) if FATAL.search(line)), None)
        or (own[-1] if own else None)
        or next((_killed(int(ended["signal"])) for ended in map(KILLED.search, lines) if ended), None)
        or (str(errors[-1]) if errors else None)
        or next((line for line in reversed(telling or lines) if line.strip()), None)
    )
    return found and _short(found)


def _errors(lines: list[str]) -> Iterator[Error]:
    """The exceptions of a log, in order; without those that Python ignored, and a launcher's."""
    inside = ignored = False
    for number, line in enumerate(lines):
        if TRACEBACK in line or MEMBER.match(line):
            ignored = number > 0 and lines[number - 1].startswith("Exception ignored in")
            inside = True
        elif inside and line[:1].strip() and (stated := ERROR.match(line)):
            inside = False
            if not ignored and not stated["kind"].startswith(LAUNCHER):
                yield Error(stated["kind"], _message(stated["said"] or "", lines[number + 1 : number + 9]))


def _message(first: str, following: list[str]) -> str:
    """The line of a message that says most: NCCL's last error; what follows a first line that only introduces it; else the first."""
    if first.endswith(":") or "NCCL error" in first:
        labels = [number for number, line in enumerate(following) if line.strip() == "Last error:"]
        said = next((line.strip() for line in following[labels[0] + 1 if labels else 0 :] if line.strip()), "")
        return f"{first} {said}".strip() if not labels else f"NCCL: {said}"
    return first


def _killed(number: int) -> str:
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    return f"a process was ended by {name}" + (" (out of memory, or by hand)" if number == signal.SIGKILL else "")


def _short(line: str) -> str:
    line = " ".join(line.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST].rstrip()} ..."
