"""The jobs of an experiment: what each is made from, what is made already, and what is left for given tables and figures.

Asked by the rules (what a job's inputs are), by the plan and the checks before a run (what is still to be made), and by `reals why`
(what a file comes from). It looks at file names and at nothing in them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from reals.experiment import figure_table
from reals.experiment.artefact import Artefact
from reals.experiment.metric_table import Source
from reals.experiment.registry import Registry
from reals.experiment.report_sheets import TableSheet
from reals.experiment.rows import Repeatable
from reals.experiment.stage_table import STEP, Stage


@dataclass(frozen=True)
class Job:
    """What makes an artefact, or a milestone of a run, or one shard of samples.

    ``number`` is the step or shard, None where all of the artefact is meant. ``needs`` are the targets of the jobs that it is
    made from, ``asked`` the outputs that somebody reads: all but pictures that no figure shows.
    """

    artefact: Artefact
    number: int | None
    outputs: tuple[Path, ...]
    needs: tuple[str, ...]
    asked: tuple[Path, ...]

    @property
    def target(self) -> str:
        """The first file it makes; jobs are known by it."""
        return str(self.outputs[0])

    @property
    def stage(self) -> Stage:
        return self.artefact.stage

    @property
    def done(self) -> bool:
        """Whether all its files exist that somebody reads."""
        return all(output.exists() for output in self.asked)


class Graph:
    """The jobs behind everything an experiment defines."""

    def __init__(self, registry: Registry):
        self.registry = registry

    @cached_property
    def jobs(self) -> dict[str, Job]:
        """By target, in the order of the DAG: a job for each milestone of a run, and one for all shards of samples."""
        artefacts = {(a.kind, a.id): a for a in self.registry.all()}
        made = (job for artefact in artefacts.values() for job in self._jobs_of(artefact))
        return {job.target: job for job in made}

    def _jobs_of(self, artefact: Artefact) -> Iterator[Job]:
        if artefact.stage.numbering is STEP:
            yield from (self.job(artefact, step) for step in self.registry.milestones(artefact))
        else:
            yield self.job(artefact)

    def job(self, artefact: Artefact, number: int | None = None) -> Job:
        """What makes an artefact, or its step or shard ``number``: any step, whether the sheets ask for it or not."""
        outputs = self.registry.outputs(artefact) if number is None else self.registry.files(artefact, number)
        asked = [path for path in outputs if not artefact.stage.measures or path == outputs[0] or path in self._drawn]
        return Job(artefact, number, tuple(outputs), tuple(self._needs(artefact, number)), tuple(asked))

    @cached_property
    def _drawn(self) -> set[Path]:
        """The files that figures are drawn from."""
        return {path for figure in figure_table.figures(self.registry) for path in figure_table.inputs(self.registry, figure)}

    def of_rule(self, stage: Stage, wildcards: Mapping[str, str]) -> Job:
        """What a rule of the workflow makes, by the wildcards of its stage."""
        number = int(wildcards[stage.numbering.name]) if stage.numbering else None
        return self.job(self.registry.find(stage.kind, wildcards[stage.wildcard]), number)

    def target(self, artefact: Artefact, step: int | None = None) -> str:
        """The target of the job of ``jobs`` that makes an artefact; of a run, the job of its first milestone or of ``step``."""
        if artefact.stage.numbering is STEP and step is not None:
            return str(self.registry.files(artefact, step)[0])
        return str(self.registry.outputs(artefact)[0])

    def _needs(self, artefact: Artefact, number: int | None) -> Iterator[str]:
        for needed in artefact.needs:
            yield self.target(needed, artefact.spec.step if needed.kind == "run" else None)
            if artefact.kind == "downstream" and needed.kind == "samples":
                yield self.target(needed.needed("autoencoder"))
            if artefact.kind == "downstream" and needed.kind == "features":
                yield self.target(needed.needed("teacher"))
        if artefact.kind == "run":
            yield self.target(self.registry.data)
            earlier = [step for step in self.registry.milestones(artefact) if number is not None and step < number]
            if earlier:
                yield self.target(artefact, earlier[-1])

    def inputs(self, job: Job) -> list[Path]:
        """The files that a job reads, and that show that what it is made from is finished."""
        return [path for target in job.needs for path in self._read(job, self.jobs[target])]

    @staticmethod
    def _read(job: Job, needed: Job) -> tuple[Path, ...]:
        gallery_alone = job.artefact.kind == "downstream" and needed.artefact.kind == "samples"  # it is in the first shard
        return needed.outputs[:1] if gallery_alone else needed.outputs

    def missing(self, targets: Iterable[str]) -> set[str]:
        """The targets among these, and behind these, that must still be made: nothing behind a job that is done."""
        found: set[str] = set()
        waiting = [target for target in targets if not self.jobs[target].done]
        while waiting:
            target = waiting.pop()
            if target not in found:
                found.add(target)
                waiting += [needed for needed in self.jobs[target].needs if not self.jobs[needed].done]
        return found

    def behind(self, targets: Iterable[str]) -> set[str]:
        """These targets and everything that they are made from, whether it is made already or not."""
        found: set[str] = set()
        waiting = list(targets)
        while waiting:
            target = waiting.pop()
            if target not in found:
                found.add(target)
                waiting += self.jobs[target].needs
        return found

    def after(self, targets: Iterable[str]) -> set[str]:
        """Everything that is made from these targets, directly or not."""
        first, found = set(targets), set[str]()
        for target, job in self.jobs.items():  # in the order of the DAG
            if not (first | found).isdisjoint(job.needs):
                found.add(target)
        return found

    @cached_property
    def wanted(self) -> set[str]:
        """What must still be made for all tables and figures but those on request, as of the first time this is asked."""
        return self.missing(target for targets in self.shown.values() for target in targets)

    def to_make(self) -> set[str]:
        """Ids of the artefacts behind tables and figures that are still to be made, wholly or in part."""
        return {self.jobs[target].artefact.id for target in self.wanted}

    @cached_property
    def shown(self) -> dict[str, tuple[str, ...]]:
        """Table -> the targets whose numbers it shows, but for those on request; ``figures`` -> those that the figures show."""
        tables = {
            name: self.behind_table(name) for name, sheet in self.registry.experiment.tables.items() if not sheet.on_request
        }
        drawn = (artefact for artefacts in figure_table.figures(self.registry).values() for artefact in artefacts)
        return tables | {"figures": tuple(dict.fromkeys(map(self.target, drawn)))}

    def behind_table(self, table: str) -> tuple[str, ...]:
        """The targets whose numbers a table shows; none of a table of settings."""
        sheet = self.registry.experiment.tables[table]
        found = (self.behind_cell(sheet, kind, name).values() for kind, name in sheet.sources() if kind != "settings")
        return tuple(dict.fromkeys(target for targets in found for target in targets))

    def behind_cell(self, sheet: TableSheet, kind: Source, name: str) -> dict[int | None, str]:
        """Seed -> the target whose number a table shows for an evaluation or autoencoder (`TableSheet.behind`)."""
        registry, experiment = self.registry, self.registry.experiment
        known: dict[str, tuple[Mapping[str, Artefact], Mapping[str, Repeatable]]] = {
            "evaluation": (registry.evaluations, experiment.evaluations),
            "autoencoder": (registry.analyses, experiment.autoencoders),
        }
        artefacts, rows = known[kind]
        return {seed: self.target(artefacts[other]) for seed, other in sheet.behind(rows, name).items()}

    def metrics(self) -> list[Path]:
        """The metrics files behind all tables and figures: evaluations in the order of their sheet, then analyses, then heads."""
        registry, experiment = self.registry, self.registry.experiment
        analyses = {self.target(registry.analyses[name]) for name in experiment.analysed_autoencoders}
        downstream = {self.target(artefact) for artefact in registry.downstream.values()}
        evaluations = [self.target(registry.evaluations[name]) for name in experiment.table_evaluations]
        return [Path(target) for target in [*evaluations, *sorted(analyses), *sorted(downstream)]]

    def drawn_from(self, figure: str) -> list[Path]:
        """The files a figure is drawn from."""
        everything = figure_table.OF_NAME[figure].drawn_from == "everything"
        return self.metrics() if everything else figure_table.inputs(self.registry, figure)
