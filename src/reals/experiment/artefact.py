"""An artefact: one thing that the workflow makes, known by the hash of its spec."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar, overload

from reals.experiment import stage_table
from reals.experiment.specs import (
    AutoencoderSpec,
    DataSpec,
    ExtractorSpec,
    FeaturesSpec,
    LatentsSpec,
    ReferenceSpec,
    RunSpec,
    SamplesSpec,
    Spec,
    TeacherSpec,
    to_identity,
)
from reals.experiment.stage_table import Stage

S = TypeVar("S", bound=Spec, covariant=True)


@dataclass(frozen=True)
class Artefact(Generic[S]):
    """One thing the DAG makes. ``needs`` are the artefacts its spec names."""

    name: str
    spec: S
    needs: tuple["Artefact[Spec]", ...] = ()

    @property
    def kind(self) -> str:
        return self.spec.kind

    @property
    def stage(self) -> Stage:
        """The stage that makes it."""
        return stage_table.OF_KIND[self.kind]

    @property
    def identity(self) -> dict[str, Any]:
        """What the id is the hash of."""
        return to_identity(self.spec)

    @cached_property
    def id(self) -> str:
        """``<name>-<10 hex digits of the sha256 of the identity>``."""
        canonical = json.dumps(self.identity, sort_keys=True, separators=(",", ":"))
        return f"{self.name}-{hashlib.sha256(canonical.encode()).hexdigest()[:10]}"

    @overload
    def needed(self, kind: Literal["data"]) -> "Artefact[DataSpec]": ...
    @overload
    def needed(self, kind: Literal["teacher"]) -> "Artefact[TeacherSpec]": ...
    @overload
    def needed(self, kind: Literal["extractor"]) -> "Artefact[ExtractorSpec]": ...
    @overload
    def needed(self, kind: Literal["features"]) -> "Artefact[FeaturesSpec]": ...
    @overload
    def needed(self, kind: Literal["autoencoder"]) -> "Artefact[AutoencoderSpec]": ...
    @overload
    def needed(self, kind: Literal["latents"]) -> "Artefact[LatentsSpec]": ...
    @overload
    def needed(self, kind: Literal["run"]) -> "Artefact[RunSpec]": ...
    @overload
    def needed(self, kind: Literal["samples"]) -> "Artefact[SamplesSpec]": ...
    @overload
    def needed(self, kind: Literal["reference"]) -> "Artefact[ReferenceSpec]": ...

    def needed(self, kind: str) -> "Artefact[Any]":
        """The first of this kind that it is made from."""
        return next(artefact for artefact in self.needs if artefact.kind == kind)

    @property
    def teacher(self) -> "Artefact[TeacherSpec] | None":
        """The teacher whose features it is made from, in their cache or by the teacher itself; None where it needs none."""
        kinds = {artefact.kind for artefact in self.needs}
        if "features" in kinds:
            return self.needed("features").needed("teacher")
        return self.needed("teacher") if "teacher" in kinds else None
