"""What the jobs of a run are doing, for people: by name, with their own progress, and how long the whole still takes.

Snakemake's lines tell of rules and job numbers. Its logger plugins could replace them, but they are made before the rules are read
and know neither sheets nor plan; so the driver hands this to Snakemake's logger once both are there.
"""

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reals import files
from reals.experiment.naming import Names
from reals.experiment.registry import Registry
from reals.experiment.stage_table import OF_COMMAND, STEP
from reals.planning import time_left
from reals.planning.cost import Costs
from reals.planning.schedule import ENDLESS, devices_of
from reals.progress import Said, clock, said

if TYPE_CHECKING:
    from snakemake.dag import DAG

SENT = re.compile(r"Job (?P<id>\d+) has been submitted with SLURM jobid (?P<slurm>\S+)")
AGAIN = re.compile(r"Trying to restart job (?P<id>\d+)\.")
INSTEAD = ("job_started", "job_finished", "progress")  # Snakemake's events that are told of here
END = 4096  # bytes at the end of a log that are looked at


@dataclass(frozen=True)
class Item:
    """A job of Snakemake's: what people call it, its log, and what its line in the book of starts begins with."""

    name: str
    command: tuple[str, ...]
    log: Path | None
    expected: time_left.Expected
    local: bool = True  # runs where snakemake runs
    prints: bool = False  # to the terminal, by itself


def items(
    dag: "DAG", registry: Registry, sheet: Path, *, cores: int | None, gpus: int, printing: Set[str] = frozenset()
) -> dict[int, Item]:
    """The jobs that this run is to do, by Snakemake's number.

    ``cores`` and ``gpus`` are those of this machine, None and 0 on a cluster; ``sheet`` is rates.yaml; ``printing`` are the rules
    whose jobs print to the terminal.
    """
    costs, names = Costs(registry), Names(registry)
    known = time_left.known_rates(registry.experiment.scale, sheet)
    planned = {(j.stage, j.artefact, j.step): j for j in costs.jobs.values()}
    found: dict[int, Item] = {}
    for job in dag.needrun_jobs():
        rule, wildcards = job.rule.name, dict(job.wildcards_dict)
        if job.rule.norun:  # it only asks for others
            continue
        stage = OF_COMMAND.get(rule)
        name, command, price, devices = _rendering(rule, wildcards), (rule,), None, 1
        if stage is not None:
            made = costs.graph.of_rule(stage, wildcards)
            name, id = names.job(made), made.artefact.id
            command = ("stage", rule, id, *([wildcards[stage.numbering.name]] if stage.numbering else []))
            price = planned.get((rule, id, made.number if stage.numbering is STEP else None))
            if price is not None:
                devices = devices_of(costs, price, known, gpus or ENDLESS)
        share = 1.0
        if cores is not None:
            held = job.resources.get("gpus_per_node", 0) / gpus if gpus else 0.0
            share = min(1.0, max(job.threads / cores, held))
        needs = frozenset(dag.jobid(other) for other in dag.dependencies[job] if dag.needrun(other))
        log = Path(str(job.log[0])) if job.log else None
        found[dag.jobid(job)] = Item(
            name, command, log, time_left.expected(rule, price, known, needs, share, devices),
            local=dag.workflow.is_local(job.rule), prints=rule in printing,
        )  # fmt: skip
    return found


def _rendering(rule: str, wildcards: Mapping[str, str]) -> str:
    """``figure5``, ``figure guidance``, ``report``, ``only table08``."""
    figure = wildcards.get("figure", "")
    return figure if figure.startswith("figure") else f"{rule.replace('_', ' ')} {figure}".rstrip()


@dataclass
class State:
    """Where a job is: ``queued``, ``running``, ``done`` or ``failed``; waiting ones have none. ``since`` when, in seconds since 1970."""

    what: str
    since: float
    said: Said | None = None
    read: tuple[float, int] = (0.0, 0)  # of its log: when it changed, and its length


class Following(logging.Handler):
    """Keeps the state of each job of ``items`` from Snakemake's records, the book of starts and the jobs' logs."""

    def __init__(
        self, items: dict[int, Item], tell: Callable[[str], None], book: Path | None = None, now: Callable[[], float] = time.time
    ):
        """``tell`` is given a line for each job that is sent, begins on a node or ends. ``book`` is the book of starts of a cluster."""
        super().__init__()
        self.items, self.tell, self.book, self.now = items, tell, book, now
        self.states: dict[int, State] = {}
        self.estimate = time_left.TimeLeft({id: item.expected for id, item in items.items()})
        self.began = now()
        self.busy = 0.0  # seconds of all jobs that ended
        self.book_read = -1
        self.broken = False
        self.of_command = {item.command: id for id, item in items.items()}
        self.held = threading.RLock()  # by whoever reads or changes the states

    def emit(self, record: logging.LogRecord) -> None:
        """Takes a record of Snakemake's in. A fault here must not stop the work: it is told of once, and Snakemake's lines return."""
        try:
            with self.held:
                self._take(record)
        except Exception as error:
            self.broken, self.items = True, {}
            self.tell(f"reals: progress is no longer shown ({type(error).__name__}: {error})")

    def _take(self, record: logging.LogRecord) -> None:
        event = str(getattr(getattr(record, "event", None), "value", ""))
        if event == "job_started":
            for id in getattr(record, "jobs", []):
                self._starts(id)
        elif event == "job_finished":
            self._ends(record.__dict__["job_id"])
        elif event == "job_error":
            self._fails(record.__dict__["jobid"])
        elif again := AGAIN.match(record.getMessage()):
            self.states.pop(int(again["id"]), None)
            self.estimate.lost.discard(int(again["id"]))
            self.tell(f"to be tried again: {self._called(int(again['id']))}")
        elif (sent := SENT.match(record.getMessage())) and int(sent["id"]) in self.items:
            self.tell(f"queued: {self._called(int(sent['id']))} (SLURM job {sent['slurm']})")

    def _called(self, id: int) -> str:
        return self.items[id].name if id in self.items else f"job {id}"

    def _starts(self, id: int) -> None:
        if id in self.items:
            there = self.book is not None and not self.items[id].local
            self.states[id] = State("queued" if there else "running", self.now())

    def _ends(self, id: int) -> None:
        if id not in self.items:
            return
        self.look()
        state = self.states.get(id)
        took = max(self.now() - state.since, 0.0) if state and state.what == "running" else None
        self.states[id] = State("done", self.now())
        self.busy += took or 0.0
        self.estimate.took[id] = took
        ended = f"{self.items[id].name}: {'done' if took is None else clock(took)}"
        self.tell(f"[{self.count('done')}/{len(self.items)}] {ended}{self._left()}")

    def _fails(self, id: int) -> None:
        if id in self.items:
            state = self.states.get(id)
            self.busy += self.now() - state.since if state and state.what == "running" else 0.0
            self.states[id] = State("failed", self.now())
            self.estimate.lost.add(id)

    @property
    def printing(self) -> bool:
        """Whether a job that prints to the terminal itself is running."""
        return any(self.items[id].prints for id in self.running())

    def count(self, what: str) -> int:
        return sum(state.what == what for state in self.states.values())

    def running(self) -> list[int]:
        return sorted((id for id, state in self.states.items() if state.what == "running"), key=lambda id: self.states[id].since)

    def look(self) -> None:
        """Reads what has changed since the last look: the book of starts, and the ends of the logs of running jobs."""
        if self.book is not None:
            self._look_into_the_book(self.book)
        for id in self.running():
            log, state = self.items[id].log, self.states[id]
            if log is not None:
                _look_into_the_log(log, state)

    def _look_into_the_book(self, book: Path) -> None:
        size = book.stat().st_size if book.exists() else 0
        if size == self.book_read:
            return
        self.book_read = size
        for row in files.read_lines(book):
            command = tuple(map(str, row.get("command", ())))
            id = next((found for n in (4, 3) if (found := self.of_command.get(command[:n])) is not None), None)
            began = row.get("began", 0.0)
            if id is None or id not in self.states or self.states[id].what not in ("queued", "running") or began < self.began:
                continue
            state = self.states[id]
            if state.what == "queued" or began > state.since:
                again = " again" if state.what == "running" else ""
                self.states[id] = State("running", began)
                self.tell(f"running{again}: {self.items[id].name} on {row.get('node')}")

    def left(self) -> float | None:
        """Seconds until all is done."""
        now = self.now()
        running = {
            id: time_left.Running(
                now - state.since, None if state.said is None or state.said.left is None else self._own(state, now)
            )
            for id, state in self.states.items()
            if state.what == "running"
        }
        at_once = 1.0
        if self.book is not None:  # as many as the cluster has let run at a time
            first = min((state.since for state in self.states.values() if state.what == "running"), default=now)
            at_once = max(
                1.0,
                len(running),
                (self.busy + sum(job.elapsed for job in running.values())) / max(now - self.began, now - first, 1.0),
            )
        return self.estimate.seconds(running, at_once)

    @staticmethod
    def _own(state: State, now: float) -> float:
        """What a job says is left of it, less the time since it said so."""
        assert state.said is not None and state.said.left is not None
        return max(state.said.left - (now - state.read[0]), 0.0)

    def _left(self) -> str:
        left = self.left()
        return "" if not left else f", about {spoken(left)} left"

    def summary(self) -> str:
        """One line for the whole."""
        counts = [f"{self.count('done')} of {len(self.items)} jobs done"]
        counts += [f"{n} {what}" for what in ("running", "queued", "failed") if (n := self.count(what))]
        return ", ".join(counts) + self._left()

    def lines(self) -> Iterator[str]:
        """One line for each running job, then one for those that are queued."""
        for id in self.running():
            state = self.states[id]
            own = f"{state.said.done}  {state.said.rate or ''}" if state.said else ""
            left = f"  {clock(self._own(state, self.now()))} left" if state.said and state.said.left is not None else ""
            yield f"{self.items[id].name}  {clock(max(self.now() - state.since, 0))}  {own.strip()}{left}".rstrip()
        queued = [self.items[id].name for id, state in self.states.items() if state.what == "queued"]
        if queued:
            yield f"queued: {'; '.join(queued[:3])}" + (f"; and {len(queued) - 3} more" if len(queued) > 3 else "")


def _look_into_the_log(log: Path, state: State) -> None:
    try:
        found = log.stat()
        seen = (found.st_mtime, found.st_size)
        if seen == state.read or found.st_mtime < state.since - 1:  # the log of an earlier try
            return
        with log.open("rb") as file:
            file.seek(max(0, found.st_size - END))
            text = file.read().decode(errors="replace")
    except OSError:
        return
    state.read, state.said = seen, said(text) or state.said


def spoken(seconds: float) -> str:
    """``40 s``, ``12 min``, ``5.2 h``, ``3.1 days``."""
    for unit, length, below in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48)):
        if seconds / length < below:
            return f"{seconds / length:.1f} {unit}" if unit == "h" else f"{max(1, round(seconds / length))} {unit}"
    return f"{seconds / 86400:.1f} days"
