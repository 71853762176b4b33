"""What every job of an experiment costs, and what exists already."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from reals.experiment import graph
from reals.experiment.reading import ConfigError
from reals.experiment.registry import Registry
from reals.planning import rates
from reals.planning.counts import counts
from reals.planning.networks import Networks
from reals.planning.prices import PRICES
from reals.planning.rates import Kind, Rates


@dataclass(frozen=True)
class Job:
    """A job of the graph (`experiment.graph.Job`) with what it costs, where it is cut into ``copies`` equal jobs: of all of them.

    ``work`` is FLOPs by kind, ``bytes`` what stays on disk.
    """

    target: str
    stage: str
    name: str
    artefact: str
    work: dict[Kind, int]
    bytes: int
    needs: tuple[str, ...]
    done: bool
    step: int | None = None
    copies: int = 1

    @property
    def flops(self) -> int:
        return sum(self.work.values())


class Costs:
    """The jobs of an experiment with their costs, by target; made from sheets and scale alone."""

    def __init__(self, registry: Registry):
        self.registry, self.scale = registry, registry.experiment.scale
        self.graph = graph.Graph(registry)
        self.counts = counts(registry)
        self.networks = Networks(registry, self.counts)

    @cached_property
    def jobs(self) -> dict[str, Job]:
        return {target: self._priced(job) for target, job in self.graph.jobs.items()}

    def _priced(self, job: graph.Job) -> Job:
        artefact = job.artefact
        work, size = PRICES[artefact.kind](self.networks, artefact, *([] if job.number is None else [job.number]))
        return Job(
            job.target, job.stage.command, artefact.name, artefact.id, {k: v for k, v in work.items() if v}, size, job.needs,
            job.done, step=job.number, copies=self.registry.shards(artefact) if artefact.kind == "samples" else 1,
        )  # fmt: skip


def estimated(costs: Costs, records: Iterable[Mapping[str, Any]], sheet: Path) -> dict[str, float]:
    """Device-seconds the plan expects of journal records, by stage; only of those whose device was measured at this scale."""
    seconds: dict[str, float] = {}
    known: dict[str, Rates | None] = {}
    jobs = {(j.stage, j.artefact, j.step): j for j in costs.jobs.values()}
    for record in records:
        stage, number, device = record["stage"], record.get("number"), record.get("device")
        job = jobs.get((stage, record["artefact"], number if stage == "transformer" else None))
        if job is None or device is None:
            continue
        if device not in known:
            try:
                known[device] = rates.load(device, costs.scale.name, sheet)
            except ConfigError:
                known[device] = None
        if (found := known[device]) is not None:
            with suppress(ConfigError):  # a kind of work that was not measured
                seconds[stage] = seconds.get(stage, 0.0) + found.seconds(job.work) / job.copies
    return seconds
