"""All artefacts of an experiment: by kind and name, by id, and their places on disk."""

from pathlib import Path
from typing import TypeVar

from reals.experiment import stage_table
from reals.experiment.artefact import Artefact
from reals.experiment.load import Experiment
from reals.experiment.reading import ConfigError
from reals.experiment.resolve import autoencoders, images, measurements, transformers
from reals.experiment.resolve.shared import Sources
from reals.experiment.specs import Spec

A = TypeVar("A", bound=Artefact[Spec])


class Registry:
    """All artefacts of an experiment, by kind and name (teachers by their key in the scale, judges by their metric)."""

    def __init__(self, experiment: Experiment, root: Path | None = None):
        """Its places are below ``root``, results/<scale> unless told. Raises ConfigError where Figures 3 and 4 name what they cannot be
        drawn from."""
        self.experiment = experiment
        self.root = root or Path("results") / experiment.scale.name
        self._all: list[Artefact[Spec]] = []  # what `_one` and `_each` were given, in the order of the lines below

        config = experiment.scale.evaluation
        self.data = self._one(images.data(experiment))
        self.extractor = self._one(images.extractor(experiment, self.data, config.extractor))
        self.judges = self._each({
            metric: images.extractor(experiment, self.data, judge) for metric, judge in config.judges.items()
        })  # fmt: skip
        self.reference = self._one(measurements.reference(experiment, self.data, self.extractor))
        self.judge_references = self._each({
            metric: measurements.judge_reference(experiment, metric, self.data, judge) for metric, judge in self.judges.items()
        })  # fmt: skip

        self.teachers = self._each(images.teachers(experiment, self.data))
        self.features = self._each(images.features(experiment, self.data, self.teachers))
        sources = Sources(experiment.scale.features, self.teachers, self.features)
        self.autoencoders = self._each(autoencoders.autoencoders(experiment, self.data, sources))
        self.latents = self._each(
            {name: transformers.latents(experiment, self.data, made) for name, made in self.autoencoders.items()}
        )
        self.runs = self._each({
            name: transformers.run(experiment, row, self.latents[row.autoencoder], sources)
            for name, row in experiment.runs.items()
        })  # fmt: skip
        self.samples = self._each({
            name: transformers.samples(
                experiment, row, self.runs[row.run], self.autoencoders[experiment.runs[row.run].autoencoder]
            )
            for name, row in experiment.evaluations.items()
        })  # fmt: skip
        self.evaluations = self._each({
            name: measurements.evaluation(experiment, drawn, self.reference, self.judge_references)
            for name, drawn in self.samples.items()
        })  # fmt: skip
        self.analyses = self._each({
            name: measurements.analysis(experiment, self.data, made, self.extractor) for name, made in self.autoencoders.items()
        })  # fmt: skip
        figures = experiment.figures
        self.downstream = self._each({
            name: measurements.downstream(experiment, self.samples[name], self.data, sources, self.autoencoders)
            for name in (figures.figure3["evaluation"], figures.figure4["evaluation"])
        })  # fmt: skip

    def _one(self, artefact: A) -> A:
        """The artefact, which is one of `all` from now on."""
        self._all.append(artefact)
        return artefact

    def _each(self, artefacts: dict[str, A]) -> dict[str, A]:
        """The artefacts by name, which are among `all` from now on."""
        self._all += artefacts.values()
        return artefacts

    def all(self) -> list[Artefact[Spec]]:
        """Every artefact after those it is made from; one that several rows stand for comes once for each."""
        return list(self._all)

    def find(self, kind: str, id: str) -> Artefact:
        """The artefact with this id; ConfigError where the sheets (now) define none."""
        for artefact in self._all:
            if artefact.kind == kind and artefact.id == id:
                return artefact
        raise ConfigError(
            f"{kind} '{id}' is not what config/ and scale '{self.experiment.scale.name}' define now; "
            f"they changed since this job was planned: run snakemake again"
        )

    def folder(self, artefact: Artefact) -> Path:
        return self.root / artefact.stage.folder / artefact.id

    def milestones(self, run: Artefact) -> list[int]:
        """The steps a run's row asks for, ascending."""
        return [self.experiment.scale.milestones[name] for name in self.experiment.runs[run.name].milestones]

    def states(self, run: Artefact) -> Path:
        """Where a run's training states are: beside the runs, since a run without them is of use too."""
        return self.root / "states" / run.id

    def shards(self, samples: Artefact) -> int:
        """How many shards an evaluation's samples are drawn in; a gallery is one, so that it stays together."""
        gallery = self.experiment.evaluations[samples.name].samples == "gallery"
        return 1 if gallery else self.experiment.scale.sampling.shards

    def numbers(self, artefact: Artefact) -> list[int] | list[None]:
        """The steps or shards that an artefact is made in, ascending; ``[None]`` where one job makes all of it."""
        match artefact.stage.numbering:
            case stage_table.STEP:
                return self.milestones(artefact)
            case stage_table.SHARD:
                return list(range(self.shards(artefact)))
        return [None]

    def outputs(self, artefact: Artefact) -> list[Path]:
        """The files Snakemake makes for an artefact; where they all exist, it is finished."""
        return [path for number in self.numbers(artefact) for path in self.files(artefact, number)]

    def files(self, artefact: Artefact, number: int | None) -> list[Path]:
        """The files that one job makes: a step's or shard's, or all."""
        return [self.folder(artefact) / name for name in artefact.stage.files(number)]
