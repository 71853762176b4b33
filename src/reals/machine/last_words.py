"""Why a job failed, as its log tells it: the line that is the cause, and not what libraries, launchers and other processes add."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from reals.machine.signals import GO_ON, ended_by
from reals.progress import LINE

LONGEST = 400  # characters that are shown; the log holds the rest
MOST = 40  # lines of one message that are looked at

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
WARNING = re.compile(r"^\S+:\d+: \w*Warning: .*\n(?:[ \t]+\S.*\n?)?", re.MULTILINE)  # Python's, with the line of code below it
SPEAKER = re.compile(r"^(?:\s*\d+: ?)?(?:\[rank\d+\]: ?)?")  # srun's label, torch's
MARGIN = re.compile(r"^\s*[|+] ?")  # of an exception group
TRACEBACK = re.compile(r"Traceback (?:of TorchScript.*)?\(most recent call last\):")
MEMBER = re.compile(r"^\s*\+?-\+?-+ (?P<number>\d+) -+$")  # begins one of an exception group
RULE = re.compile(r"^-{20,}$")  # ends the group
ERROR = re.compile(r"^(?P<kind>[A-Za-z_][\w.]*)(?:: ?(?P<said>.*))?$")
IGNORED = ("Exception ignored ", "Error in atexit.")
WRAPPED = "The above exception was the direct cause of the following exception:"
OWN = re.compile(r"^reals\b[\w .-]*: \S")
NOTICE = re.compile(r"^reals\b[\w .-]*: (?:ignored |.*; caches go to )")  # said at the start
LAUNCHER = ("torch.distributed.elastic.",)  # its errors say that a process failed, which then has a better one
SHORT_OF_MEMORY = re.compile(r"\boom[_-]kill|^srun: error: .*\bOut Of Memory")
SHELL = re.compile(r"^(?:\S+: line \d+: +\d+ )?(?P<what>Killed|Bus error|Segmentation fault|Aborted|Illegal instruction)\b")
FATAL = re.compile(
    r"^(?:Fatal Python error: |\s*what\(\):  ).+|^slurmstepd: error: .*(?:LIMIT|CANCELLED)"
    r"|^Lmod has detected the following error:|^ERROR: |^FATAL: |\bpthread_create failed\b"
)
KILLED = re.compile(r"failed \(exitcode: -(?P<signal>\d+)\)")
NOISE = re.compile(
    r"^\s*$|^[=*+-]+$|^\[?[WEI]\d{4} \d\d:\d\d:\d\d"  # rules, glog's lines
    r"|^\s*(?:time|host|rank|exitcode|error_file|traceback) +: |^\[\d+\]:$|^(?:Failures|Root Cause.*):$| FAILED$"  # torchrun's summary
    r"|^Set TORCH|^You can suppress this|^For debugging consider|^Compile with `TORCH_USE|^CUDA kernel errors might|^Search for `cuda"
    r"|^Setting OMP_NUM_THREADS|^Exception raised from |^frame #\d+: "
    r"|^srun: (?:Terminating|Force Terminated|Job step aborted)|^srun: error: .*: task.*: (?:Exited with|Terminated|Killed)"
)
INTRODUCES = re.compile(r":$|NCCL error|^\d+ validation errors? for |\bcompile error$|^$")  # a message whose next lines say more
SAYS_MORE = re.compile(r"^(?:Last error:|Original error was: )|\berror: ")
ADVICE = re.compile(r" If reserved but unallocated memory is large.*")
SIGNAL = {"Killed": 9, "Bus error": 7, "Segmentation fault": 11, "Aborted": 6, "Illegal instruction": 4}


class Error(NamedTuple):
    """An exception in a log: its line's number, its type, and of its message the line that says most.

    ``origin`` is what it was raised from, where a library put one exception around another; ``member`` its number in an exception group,
    0 where it is in none.
    """

    line: int
    kind: str
    said: str
    origin: str = ""
    member: int = 0

    def __str__(self) -> str:
        stated = f"{self.kind}: {self.said}" if self.said else self.kind
        return f"{stated} (from {self.origin})" if self.origin else stated

    @property
    def of_others(self) -> bool:
        """Whether it says that another process is gone, and not why."""
        return self.kind.startswith("torch.distributed.Dist") or "gloo" in self.said


class Line(NamedTuple):
    """A line of a log: its number, who said it where a label tells, and the text after the label."""

    number: int
    speaker: str
    text: str


def cause(log: str) -> str | None:
    """The one line that says why; None where the log says nothing.

    It is a kill for want of memory, which ends a process without a word of its own; else what `reals` itself said at the end, else
    the last exception, else a crash or another kill, else the last line that is no noise.
    """
    lines = [_line(number, text) for number, text in enumerate(WARNING.sub("", COLOUR.sub("", log)).splitlines())]
    telling = [line for line in lines if not NOISE.search(line.text) and GO_ON not in line.text]
    own = [line for line in telling if OWN.match(line.text) and not NOTICE.match(line.text)]
    errors = sorted(_errors(lines))
    here = [error for error in errors if not error.of_others]
    if own and not (here and here[-1].line > own[-1].number):
        here = []
    elif (
        here and SHELL.match(telling[-1].text) and any(LINE.search(line.text) for line in telling if line.number > here[-1].line)
    ):
        here = []  # it went on after what it told of, and was killed
    found = (
        next((line.text.strip() for line in reversed(lines) if SHORT_OF_MEMORY.search(line.text)), None)
        or (_all_of_group(here) if here else None)
        or (own[-1].text if own else None)
        or next((line.text.strip() for line in reversed(lines) if FATAL.search(line.text)), None)
        or next((_ended(int(found["signal"])) for found in (KILLED.search(line.text) for line in lines) if found), None)
        or next((_ended(SIGNAL[found["what"]]) for found in (SHELL.match(line.text) for line in telling[-1:]) if found), None)
        or (str(errors[-1]) if errors else None)
        or next((line.text for line in reversed(telling or lines) if line.text.strip()), None)
    )
    return found and _short(found)


def _all_of_group(errors: list[Error]) -> str:
    """The last exception; where it is of a group, each of the group once, as none says what befell the others."""
    group: list[Error] = []
    for error in reversed(errors):
        if group and not 0 < error.member <= group[-1].member:
            break
        if not group or error.member < group[-1].member:  # of one member's chain the last
            group.append(error)
    return "; ".join(dict.fromkeys(str(error) for error in reversed(group)))


def _line(number: int, text: str) -> Line:
    label = SPEAKER.match(text)
    assert label is not None  # it may be empty
    return Line(number, label[0].strip(), MARGIN.sub("", text[label.end() :]))


def _errors(lines: list[Line]) -> Iterator[Error]:
    """The exceptions of each speaker; without those that Python ignored, and a launcher's."""
    for speaker in dict.fromkeys(line.speaker for line in lines):
        yield from _errors_of([line for line in lines if line.speaker == speaker])


def _errors_of(lines: list[Line]) -> Iterator[Error]:
    inside = ignored = wrapped = False
    last, member = "", 0
    for place, (number, _, text) in enumerate(lines):
        if text.startswith(WRAPPED):
            wrapped = True
        elif RULE.match(text):
            member = 0
        elif TRACEBACK.search(text) or MEMBER.match(text):
            if found := MEMBER.match(text):
                member = int(found["number"])
            ignored = place > 0 and lines[place - 1].text.startswith(IGNORED)
            inside = True
        elif inside and text[:1].strip() and (stated := ERROR.match(text)):
            inside = False
            if ignored or stated["kind"].startswith(LAUNCHER):
                continue
            said = (
                ""
                if stated["said"] is None
                else _message(stated["said"], [line.text for line in lines[place + 1 : place + MOST]])
            )
            origin = last if wrapped and last.partition(": ")[2] not in said else ""
            wrapped, last = False, f"{stated['kind']}: {said}" if said else stated["kind"]
            yield Error(number, stated["kind"], said, origin, member)


def _message(first: str, following: list[str]) -> str:
    """The line of a message that says most: the first, unless it only introduces another, as NCCL's, a compiler's and pydantic's do."""
    first = ADVICE.sub("", first)
    if not INTRODUCES.search(first):
        return first
    end = next((n for n, line in enumerate(following) if TRACEBACK.search(line)), None)
    below = [line.strip() for line in following[:end] if line.strip()]
    for number, line in enumerate(below):
        if SAYS_MORE.search(line):
            if line == "Last error:":
                return f"NCCL: {below[number + 1]}" if number + 1 < len(below) else first
            return f"{first} {line}".strip()
    more = below[: 2 if first[:1].isdigit() else 1]
    return f"{first} {' '.join(more)}".strip()


def _ended(number: int) -> str:
    return f"a process was ended by {ended_by(number)}"


def _short(line: str) -> str:
    line = " ".join(line.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST].rstrip()} ..."
