"""What snakemake is told to make again (-F, -R, -f): those jobs, and all that is made from them, begin anew.

Snakemake deletes their outputs and starts them. Of the states, caches and parts that a stage goes on from it knows nothing: they
are set aside before the first job, once for the whole run, so that a forced job that is tried again goes on from its own. The outputs
are too: where the run is killed, a plain snakemake then makes the rest.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from reals import files
from reals.experiment.artefact import Artefact
from reals.experiment.graph import Graph, Job
from reals.experiment.registry import Registry
from reals.experiment.stage_table import OF_COMMAND, STEP
from reals.records import provenance

if TYPE_CHECKING:
    from snakemake.settings.types import DAGSettings

STATE = re.compile(r"step_(\d+)\.(?:pt|sha256)")
SHOWN = 3  # targets in a message
LOCK_SECONDS = 60.0  # a training that was told to stop may still be saving


class Forced:
    """The jobs of a graph that begin anew."""

    def __init__(self, graph: Graph, settings: "DAGSettings"):
        self.graph, self.everything = graph, settings.forceall
        names = {*settings.forcerun, *(settings.targets if settings.forcetargets else ())}
        self.names = names | {os.path.relpath(name) for name in names}  # of rules, and of files
        self.targets: set[str] = set()
        if self.everything or self.names:
            named = {target for target, job in graph.jobs.items() if self.named(job)}
            self.targets = named | graph.after(named)

    def named(self, job: Job) -> bool:
        """Whether snakemake was told to make it again."""
        return self.everything or job.stage.command in self.names or any(str(path) in self.names for path in job.outputs)

    def outdated(self, job: Job) -> bool:
        """Whether it is made from what is made again."""
        return not self.targets.isdisjoint(job.needs)

    def inputs(self, job: Job, ancient: Callable[[list[Path]], object]) -> object:
        """The input of a stage's rule: nothing where the job's files exist already, unless it is made again.

        ancient() alone is not enough: it ignores an input's age, but where the input is missing and another job has it made again
        (as in a clone that pulled only some results), Snakemake would run this finished job again as well.
        """
        found = self.graph.inputs(job)
        if self.outdated(job):
            return found  # behind ancient ones that exist Snakemake would not make it again, even where it is told to
        return ancient(found) if not job.done or self.named(job) else []

    def begin_anew(self, planned: Iterable[tuple[str, Mapping[str, str]]]) -> list[str]:
        """Sets aside what is there of the jobs (rule, wildcards) that are planned, where they begin anew; lines that say so, and name
        what is made from them and stays.

        Raises Busy where a training that is to begin anew still runs.
        """
        if not self.targets:
            return []
        jobs = [self.graph.of_rule(OF_COMMAND[rule], wildcards) for rule, wildcards in planned if rule in OF_COMMAND]
        anew = [job for job in jobs if self.named(job) or self.outdated(job)]
        stays = self._stays(anew)
        folders = set_aside(self.graph.registry, anew)
        where = ", ".join(map(str, folders))
        said = [f"made again from the start, as told; what was there before is now in {where}"] if where else []
        if stays:
            more = f" and {len(stays) - SHOWN} more" if len(stays) > SHOWN else ""
            said.append(
                f"made from what is made again, and not asked for, so still of before: {', '.join(stays[:SHOWN])}{more}; "
                "delete all of that to have it made again too"
            )
        return said

    def _stays(self, anew: list[Job]) -> list[str]:
        """Targets that exist and are made from these jobs, directly or not, and are not among them: with -f, --until or --omit-from."""
        artefacts = {(job.artefact.id, job.number if job.artefact.stage.numbering is STEP else None) for job in anew}
        again = {target for target, job in self.graph.jobs.items() if (job.artefact.id, job.number) in artefacts}
        later = self.graph.after(again) - again
        return [target for target in self.graph.jobs if target in later and self.graph.jobs[target].done]


def set_aside(registry: Registry, jobs: Iterable[Job]) -> list[Path]:
    """Renames what ``jobs`` made and would go on from, with the time in its new path; the folders in which it is now.

    Samples alone are deleted, as Snakemake would.
    """
    now, folders = time.strftime("%Y%m%d-%H%M%S"), set[Path]()
    for artefact, numbers in _by_artefact(jobs):
        lock = registry.folder(artefact) / ".lock"  # of a training
        with files.lock(lock, str(lock.parent), LOCK_SECONDS) if lock.exists() else nullcontext():
            for place, path in [*_left_behind(registry, artefact, numbers)]:
                aside = place.parent / provenance.SET_ASIDE / now
                new = aside / place.name / path.relative_to(place)
                if artefact.kind == "samples" and path.suffix == ".npy":
                    path.unlink()  # gigabytes that nobody goes on from
                    continue
                new.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, new)
                folders.add(aside)
                if path.name == "log.jsonl" and artefact.stage.numbering is STEP:
                    _keep_records(new, path, _start(registry, artefact, numbers))
    return sorted(folders)


def _by_artefact(jobs: Iterable[Job]) -> Iterable[tuple[Artefact, list[int | None]]]:
    """Each artefact with the numbers of its jobs."""
    found: dict[tuple[str, str], tuple[Artefact, list[int | None]]] = {}
    for job in jobs:
        found.setdefault((job.artefact.kind, job.artefact.id), (job.artefact, []))[1].append(job.number)
    return found.values()


def _left_behind(registry: Registry, artefact: Artefact, numbers: list[int | None]) -> Iterator[tuple[Path, Path]]:
    """(folder, path in it) of what the jobs of an artefact would go on from, and of what they made, with its records.

    Snakemake would delete that only as it comes to each job: a run that is killed before would leave results of both makings.
    """
    folder = registry.folder(artefact)
    if artefact.stage.numbering is STEP:
        states, start = registry.states(artefact), _start(registry, artefact, numbers)
        beyond = [path for path in states.glob("step_*") if (found := STATE.fullmatch(path.name)) and int(found[1]) > start]
        yield from ((states, path) for path in sorted(beyond, reverse=True))  # checksums first: without its own no state counts
    made = [path for number in numbers for path in registry.files(artefact, number)]
    yield from ((folder, path) for output in made for path in (output, provenance.path_of(output)) if path.exists())
    patterns = dict.fromkeys(pattern for number in numbers for pattern in artefact.stage.left_behind(number))
    yield from ((folder, path) for pattern in patterns for path in sorted(folder.glob(pattern)))


def _start(registry: Registry, run: Artefact, numbers: list[int | None]) -> int:
    """The step that a run begins anew from: its last milestone before those of its jobs, or 0."""
    first = min(number for number in numbers if number is not None)
    return max((step for step in registry.milestones(run) if step < first), default=0)


def _keep_records(log: Path, path: Path, upto: int) -> None:
    """Writes the records of a log that still hold, those up to a step, to ``path``."""
    from reals.training.log import read_log  # not at the start of every snakemake

    if kept := [record for record in read_log(log) if record["step"] <= upto]:
        files.write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
