"""What people call a job: "SiT-B/2 on ReaLS, 400K", where a file name has a row of a sheet and a hash."""

import re
from collections import Counter
from collections.abc import Mapping
from functools import cached_property

from reals.experiment import repeats
from reals.experiment.artefact import Artefact
from reals.experiment.graph import Job
from reals.experiment.registry import Registry
from reals.experiment.rows import EvaluationRow, Repeatable, RunRow

SPELLED = (("reals", "ReaLS"), ("sd-vae", "SD-VAE"))  # as the paper writes how a row's name begins
USUAL = {"DiT": "ddpm", "SiT": "sde"}  # the sampler of each family that goes without saying


class Names:
    """The names of an experiment's jobs; `job` of two different jobs is never the same.

    They are made from the rows of the sheets and, where no row defines an artefact, from its own name. Where rows would share a
    name, each has its name in the sheet behind it.
    """

    def __init__(self, registry: Registry):
        self.registry, self.experiment = registry, registry.experiment

    def job(self, job: Job) -> str:
        return self.of(job.artefact, job.number)

    def of(self, artefact: Artefact, number: int | None = None) -> str:
        """An artefact's name, or that of the job that makes its step or shard ``number``."""
        name = artefact.name
        match artefact.kind:
            case "run":
                steps = self.experiment.scale.milestones
                milestone = next((m for m in self.experiment.runs[name].milestones if steps[m] == number), f"step {number}")
                return self.runs[name] if number is None else f"{self.runs[name]}, {milestone}"
            case "autoencoder":
                return f"autoencoder {self.autoencoders[name]}"
            case "latents":
                return f"latents of {self.autoencoders[name]}"
            case "analysis":
                return f"analysis of autoencoder {self.autoencoders[name]}"
            case "samples":
                shard = number is not None and self.registry.shards(artefact) > 1
                return f"samples of {self.evaluations[name]}" + (f", shard {number}" if shard else "")
            case "evaluation":
                return f"evaluation of {self.evaluations[name]}"
            case "downstream":
                return f"masks and depth of {self.evaluations[name]}"
        return self.others[artefact.id]

    @cached_property
    def others(self) -> dict[str, str]:
        """Id of what no row defines -> ``teacher digits-vit-l``."""
        return _distinct({a.id: _other(a) for a in self.registry.all() if a.stage.sheet is None})

    @cached_property
    def autoencoders(self) -> dict[str, str]:
        """Row -> ``ReaLS, seed 1``."""
        rows = self.experiment.autoencoders
        return _distinct({name: _spelled(row.repeat_of or name) + _seed(rows, name) for name, row in rows.items()})

    @cached_property
    def runs(self) -> dict[str, str]:
        """Row -> ``SiT-B/2 on ReaLS, seed 1``."""
        rows = self.experiment.runs
        return _distinct({name: self._run(row) + _seed(rows, name) for name, row in rows.items()})

    def _run(self, row: RunRow) -> str:
        source = self.experiment.autoencoders[row.autoencoder]
        means = " with REPA" * row.repa + (f" along {row.path}" if row.path else "")
        factor = "" if row.scaling_factor is None else f"{row.scaling_factor:g} x "
        own = row.seed is not None and row.seed == source.seed  # said once, of the run
        latents = _spelled(source.repeat_of or source.name) if own else self.autoencoders[row.autoencoder]
        return f"{row.model}{means} on {factor}{latents}"

    @cached_property
    def evaluations(self) -> dict[str, str]:
        """Row -> ``SiT-B/2 on ReaLS at 400K, cfg 1.5``."""
        return _distinct({name: self._evaluation(row) for name, row in self.experiment.evaluations.items()})

    def _evaluation(self, row: EvaluationRow) -> str:
        said = [f"{self.runs[row.run]} at {row.milestone}"]
        if row.cfg != 1:
            said.append(f"cfg {row.cfg:g}" + (f" in [{row.interval[0]:g},{row.interval[1]:g}]" if row.interval else ""))
        settings = row.sampler.model_dump(exclude={"name"}, exclude_none=True)
        if settings or row.sampler.name != USUAL[self.experiment.runs[row.run].family]:
            said.append(" ".join([row.sampler.name, *(f"{key} {value}" for key, value in settings.items())]))
        if row.samples == "gallery":
            said.append("gallery")
        return ", ".join(said)


def _other(artefact: Artefact) -> str:
    match artefact.kind:
        case "features":
            return f"features of {artefact.needed('teacher').name} on {artefact.needed('data').name}"
        case "reference":
            return f"reference of {artefact.needed('data').name} by {artefact.needed('extractor').name}"
    return f"{artefact.kind} {artefact.name}"


def _spelled(name: str) -> str:
    for begins, written in SPELLED:
        if re.match(rf"{begins}(?![a-z0-9])", name):
            return written + name.removeprefix(begins)
    return name


def _seed(rows: Mapping[str, Repeatable], name: str) -> str:
    """Which of several seeds a row stands for."""
    row = rows[name]
    return f", seed {row.seed}" if repeats.repeats(rows, row.repeat_of or name) else ""


def _distinct(names: Mapping[str, str]) -> dict[str, str]:
    said = Counter(names.values())
    return {row: text if said[text] == 1 else f"{text} ({row})" for row, text in names.items()}
