"""How long a run still takes: what the plan expects of each job, times how jobs like it have turned out so far, on what there is.

A run's first jobs say how fast this machine is at their kind of work. A kind not seen yet is taken to be as much faster or slower
than expected as the others of its stage, or else as all that ended.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reals.experiment.reading import ConfigError
from reals.experiment.scale import Scale
from reals.planning import rates
from reals.planning.cost import Job
from reals.planning.rates import Kind, Rates
from reals.planning.schedule import Unit, listed, longest

# FLOP/s of one thread of a Xeon on the demo's networks, for machines that nobody measured: between those of one that was busy with
# other work beside the demo and of one that was not, which differ most in how fast transformers are beside autoencoders.
_CPU = {
    "transformer": 19e9, "transformer B": 17e9, "transformer XL": 29e9, "sampling": 24e9, "sampling B": 26e9, "sampling XL": 38e9,
    rates.TEACHER: 31e9, "autoencoder": 29e9, "encoding": 31e9,
}  # fmt: skip
CPU = Rates("CPU", "guessed", {"fp32": 50e9}, {"fp32": _CPU}, threads=1)
BESIDE = 0.3  # seconds of a job beside its networks: start, reading, writing
MORE = {"data": 2.0, "analyse": 3.0, "evaluate": 0.2, "downstream": 5.0, "figure": 1.0, "tables": 0.5, "report": 0.5}  # by rule
SHARE = {"teacher": 0.7, "extractor": 0.7}  # of what their kind's rate says: a plain step, nothing small beside the network
PRIOR = 0.5  # how many jobs of its kind what others say of a kind counts for
PARTS = 1000  # that a machine is divided into


@dataclass(frozen=True)
class Expected:
    """A job as the plan sees it: what it is to take, the jobs it waits for, the share of the machine it holds.

    ``kind`` is that of most of its work; "" where it spends less time in networks than ``beside`` them.
    """

    stage: str
    kind: str
    seconds: float
    needs: frozenset[int] = frozenset()
    share: float = 1.0


def expected(stage: str, job: Job | None, known: Rates, needs: frozenset[int], share: float, devices: int = 1) -> Expected:
    """One job, or one of ``job.copies`` equal ones, on ``devices``; ``job`` is None where the plan counts nothing."""
    beside = BESIDE + MORE.get(stage, 0.0)
    work = {kind: _seconds(known, kind, flops) / job.copies / devices for kind, flops in job.work.items()} if job else {}
    networks = SHARE.get(stage, 1.0) * sum(work.values())
    main = str(max(work, key=lambda kind: work[kind])) if networks > beside else ""
    return Expected(stage, main, beside + networks, needs, share)


def _seconds(known: Rates, kind: Kind, flops: int) -> float:
    try:
        return flops / known.rate(kind)
    except ConfigError:  # a kind of work, or a precision, that nobody measured
        return flops / max(rate for each in known.by_precision.values() for rate in each.values())


def known_rates(scale: Scale, sheet: Path) -> Rates:
    """What is known before the first job: what `reals measure` found at this scale, else a stated GPU's, else a CPU's."""
    gpu = rates.on_gpus(scale)
    for path in sorted(rates.MEASURED.glob("*.json"), key=lambda path: -path.stat().st_mtime):
        found = rates.load(path.stem, scale.name, sheet)
        if found.source.startswith("measured") and (found.threads is None) == gpu:
            return found
    return rates.load("a100", scale.name, sheet) if gpu else CPU


@dataclass
class Seen:
    """Seconds that jobs took, and those that were expected of them."""

    took: float = 0.0
    expected: float = 0.0
    jobs: float = 0.0

    def add(self, took: float, expected: float, weight: float = 1.0) -> None:
        self.took += weight * took
        self.expected += weight * expected
        self.jobs += weight

    @property
    def ratio(self) -> float:
        return self.took / self.expected

    def factor(self, otherwise: float) -> float:
        """By how much jobs take longer than expected; ``otherwise`` is what is known of others."""
        if not self.jobs:
            return otherwise
        prior = PRIOR * self.expected / self.jobs
        return (self.took + prior * otherwise) / (self.expected + prior)


@dataclass
class Running:
    """A job under way: seconds since it began, and those it says are left, where it says so."""

    elapsed: float
    left: float | None = None


@dataclass
class TimeLeft:
    """Estimates what the ``jobs`` that are not done still take, ``at_once`` machines' worth of them at a time."""

    jobs: Mapping[int, Expected]
    took: dict[int, float | None] = field(default_factory=dict)  # of those that ended; None: nobody saw when it began
    lost: set[int] = field(default_factory=set)  # those that failed for good

    def seconds(self, running: Mapping[int, Running], at_once: float = 1.0) -> float | None:
        """None before the first job has said anything. What waits for a job that failed is not counted: it will not run."""
        factors = self._factors(running)
        if factors is None:
            return None
        lost = self.lost | self.waiting_for(self.lost)
        at_once = max(at_once, sum(self.jobs[i].share for i in running))
        targets = [i for i in self.jobs if i not in self.took and i not in lost]
        units: dict[str, Unit] = {}
        for i in targets:
            job, now = self.jobs[i], running.get(i)
            whole = job.seconds * factors(job)
            left = whole if now is None else max(whole - now.elapsed, 0.05 * whole) if now.left is None else now.left
            parts = max(1, min(PARTS, round(PARTS * job.share / at_once)))
            units[str(i)] = Unit(parts, left, 1)
        needs = {str(i): {str(n) for n in self.jobs[i].needs} & units.keys() if i not in running else set() for i in targets}
        followers: dict[str, list[str]] = {target: [] for target in units}
        for target, needed in needs.items():
            for each in needed:
                followers[each].append(target)
        remaining = longest(units, followers)
        first = max(remaining.values(), default=0.0)
        return listed(units, needs, followers, {t: r + first * (int(t) in running) for t, r in remaining.items()}, PARTS)

    def waiting_for(self, jobs: set[int]) -> set[int]:
        """What cannot be made without these, and is not made."""
        found = set(jobs)
        more = True
        while more:
            new = {i for i, job in self.jobs.items() if i not in found and i not in self.took and job.needs & found}
            more = bool(new)
            found |= new
        return found - jobs

    def _factors(self, running: Mapping[int, Running]) -> Callable[[Expected], float] | None:
        """By how much a job takes longer than expected, by what ended and what is under way; None where nothing says so yet."""
        stages: dict[tuple[str, bool], Seen] = {}
        kinds: dict[tuple[str, str], Seen] = {}

        def saw(job: Expected, took: float, weight: float) -> None:
            stages.setdefault((job.stage, job.kind != ""), Seen()).add(took, job.seconds, weight)
            kinds.setdefault((job.stage, job.kind), Seen()).add(took, job.seconds, weight)

        for i, took in self.took.items():
            if took is not None:
                saw(self.jobs[i], took, 1.0)
        for i, now in running.items():
            if now.left is not None and now.elapsed > 0:
                whole = now.elapsed + now.left
                saw(self.jobs[i], whole, now.elapsed / whole)
        networks = [seen for (_, heavy), seen in stages.items() if heavy]
        # By work, as rates are; of what is not in networks the middle one: a stage that is misjudged says nothing of others.
        by_work = sum(seen.took for seen in networks) / sum(seen.expected for seen in networks) if networks else None
        others = [seen.ratio for (_, heavy), seen in stages.items() if not heavy]
        middle = statistics.median(others) if others else by_work
        if middle is None:
            return None
        alike = {True: middle if by_work is None else by_work, False: middle}

        def factor(job: Expected) -> float:
            heavy = job.kind != ""
            of_stage = stages.get((job.stage, heavy), Seen()).factor(alike[heavy])
            return kinds.get((job.stage, job.kind), Seen()).factor(of_stage)

        return factor
