"""What the functions of several kinds need."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from reals.experiment.artefact import Artefact
from reals.experiment.load import Experiment
from reals.experiment.reading import Strict
from reals.experiment.specs import FeaturesSpec, LpipsSpec, TeacherSpec

PRECISION = "float16"  # of cached features and latents


@dataclass(frozen=True)
class Source:
    """Where features come from: one of the two, or neither where none are used."""

    features: Artefact[FeaturesSpec] | None = None
    teacher: Artefact[TeacherSpec] | None = None

    @property
    def ids(self) -> dict[str, Any]:
        """As the fields of a spec."""
        return {"features": id_of(self.features), "teacher": id_of(self.teacher)}


@dataclass(frozen=True)
class Sources:
    """Where the features of each teacher come from: its cache, or the teacher itself where there is none of what is asked for."""

    features: str  # as the scale says: cached, cls or online
    teachers: Mapping[str, Artefact[TeacherSpec]]
    caches: Mapping[str, Artefact[FeaturesSpec]]

    def of(self, teacher: str, *, patches: bool) -> "Source":
        cached = {"cached": True, "cls": not patches, "online": False}[self.features]
        return Source(features=self.caches[teacher]) if cached else Source(teacher=self.teachers[teacher])


def id_of(artefact: Artefact[Any] | None) -> str | None:
    return None if artefact is None else artefact.id


def made_of(*artefacts: Artefact[Any] | None) -> tuple[Artefact[Any], ...]:
    """What a spec names, without what this one does not use."""
    return tuple(artefact for artefact in artefacts if artefact is not None)


def values_of(config: Strict, *without: str) -> dict[str, Any]:
    """What a part of the scale states: a value that no spec has a field for is an error there, and never left out of an id."""
    return config.model_dump(exclude={"name", "kind", *without})


def lpips(experiment: Experiment, precision: Literal["bf16"] | None = None) -> LpipsSpec:
    """The LPIPS of autoencoder training and, in float32, of reconstructions."""
    return LpipsSpec(**values_of(experiment.scale.autoencoder.lpips, "weights"), precision=precision)
