"""Rows of the sheets: the autoencoders, transformer runs and evaluations that the paper compares."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from reals.experiment.reading import ConfigError, Name, Seed, Strict, comma_separated, dash_is_none, read_sheet, validate
from reals.experiment.sampler_table import (
    CHAIN_STEPS,
    SAMPLERS,
    DiffusionForm,
    Family,
    GuidedChannels,
    IntervalTime,
    LastStep,
    SamplerName,
)


def _settings(cell: Any) -> Any:
    """``name`` or ``name:key=value,key=value`` as a mapping."""
    if not isinstance(cell, str):
        return cell
    name, _, settings = cell.partition(":")
    pairs = [part.strip().partition("=") for part in settings.split(",")] if settings else []
    return {"name": name, **{key.strip(): value.strip() for key, _, value in pairs}}


class SamplerCell(Strict):
    """``sde``, or ``sde:form=linear,last=tweedie``: a sampler, and what differs from the scale's steps and the paper's settings."""

    name: SamplerName
    steps: int | None = Field(None, ge=2)  # network evaluations for one image; heun-sde takes 2 steps - 1
    form: DiffusionForm | None = None
    norm: float | None = Field(None, gt=0)
    last: LastStep | None = None
    last_size: float | None = Field(None, ge=0, lt=1)
    eta: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _possible(self):
        sampler = SAMPLERS[self.name]
        for key in self.model_fields_set - {"name", *sampler.settings}:
            raise ValueError(f"{key} means nothing to {self.name}, which takes {', '.join(sampler.settings) or 'no settings'}")
        if sampler.even and self.steps is not None and self.steps % 2:
            raise ValueError(f"{self.name} with {self.steps} evaluations: Heun needs two a step, so an even number")
        if sampler.family == "DiT" and self.steps is not None and self.steps > CHAIN_STEPS:
            raise ValueError(f"{self.name} with {self.steps} steps: DiT's chain has {CHAIN_STEPS}")
        if self.last == "none" and self.name == "heun-sde":
            raise ValueError("last=none: Heun would need the score at t = 1, which is infinite; use mean")
        if self.last is not None and self.last_size is not None and (self.last == "none") != (self.last_size == 0):
            raise ValueError("last=none has last_size=0, and only that")
        if self.last is None and self.last_size == 0:
            raise ValueError("last_size=0 is for last=none")
        return self


def _seeds(cell: Any) -> Any:
    return () if cell == "-" else comma_separated(cell)


class Repeatable(Strict):
    """A row that stands for one training with each of its ``seeds`` (optional column).

    Where there are several, reading the sheet adds a row ``<name>-seed<n>`` for each after the first: its ``seeds`` is that one,
    and ``repeat_of`` the name of the row in the sheet.
    """

    name: Name
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(_seeds)] = ()  # '-' or no column: the scale's
    repeat_of: str | None = None

    @model_validator(mode="after")
    def _distinct(self):
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {','.join(map(str, self.seeds))} name one twice")
        return self

    @property
    def seed(self) -> int | None:
        """The seed of this very row; None where the scale says it."""
        return self.seeds[0] if self.seeds else None


class AutoencoderRow(Repeatable):
    init: str
    teacher: Annotated[Literal["large", "base"] | None, BeforeValidator(dash_is_none)]
    patch: Annotated[bool, BeforeValidator(lambda v: False if v == "-" else v)]
    cls: Annotated[bool, BeforeValidator(lambda v: False if v == "-" else v)]
    layers: Annotated[Annotated[int, Field(ge=1, le=16)] | None, BeforeValidator(dash_is_none)]
    lambda_k: Annotated[Annotated[float, Field(ge=0)] | None, BeforeValidator(dash_is_none)]
    lambda_a: Annotated[Annotated[float, Field(ge=0)] | None, BeforeValidator(dash_is_none)]
    note: str | None = None

    @model_validator(mode="after")
    def _complete(self):
        aligned = self.patch or self.cls
        if self.init != "base" and (self.lambda_k is None or self.lambda_a is None):
            raise ValueError("a fine-tuned autoencoder needs lambda_k and lambda_a")
        if aligned and (self.teacher is None or self.layers is None):
            raise ValueError("alignment (patch or cls = yes) needs a teacher (large or base) and layers")
        if self.init == "base" and aligned:
            raise ValueError("init 'base' is not aligned: set patch and cls to '-', or init to another row")
        return self


class RunRow(Repeatable):
    model: Annotated[str, Field(pattern=r"^(DiT|SiT)-(S|B|L|XL)/(2|4|8)$")]
    autoencoder: str = Field(min_length=1)
    repa: bool
    milestones: Annotated[tuple[str, ...], BeforeValidator(comma_separated), Field(min_length=1)]
    path: Annotated[Literal["gvp", "vp"] | None, BeforeValidator(dash_is_none)] = None  # '-' or no column: SiT's linear
    # What the latents are multiplied by; '-' or no column: the autoencoder's own factor.
    scaling_factor: Annotated[Annotated[float, Field(gt=0)] | None, BeforeValidator(dash_is_none)] = None

    @model_validator(mode="after")
    def _has_a_path(self):
        if self.path is not None and (self.family == "DiT" or self.repa):
            raise ValueError(f"path {self.path} is for SiT runs without repa; DiT has its own schedule and REPA the linear path")
        return self

    @property
    def family(self) -> Family:
        return "DiT" if self.model.startswith("DiT-") else "SiT"

    @property
    def size(self) -> str:
        return self.model.split("-")[1].split("/")[0]

    @property
    def patch(self) -> int:
        return int(self.model.split("/")[1])


class EvaluationRow(Repeatable):
    """Its repeats are those of its run; ``seeds`` in its sheet names some of them where all would be dear."""

    run: str
    milestone: str
    sampler: Annotated[SamplerCell, BeforeValidator(_settings)]
    cfg: float = Field(ge=1)
    interval: Annotated[tuple[float, float] | None, BeforeValidator(comma_separated)]
    interval_time: Annotated[IntervalTime | None, BeforeValidator(dash_is_none)]
    cfg_channels: Annotated[GuidedChannels | None, BeforeValidator(dash_is_none)]
    samples: Literal["all", "gallery"]

    @model_validator(mode="after")
    def _guided(self):
        if self.cfg != 1 and self.cfg_channels is None:
            raise ValueError("guidance (cfg above 1) needs cfg_channels: 3 or all")
        if self.interval is not None:
            low, high = self.interval
            if not 0 <= low < high <= 1:
                raise ValueError(f"interval {low},{high} must satisfy 0 <= low < high <= 1")
            if self.interval_time is None:
                raise ValueError("an interval needs interval_time: noise or data")
        return self


Row = TypeVar("Row", bound=Repeatable)


@dataclass(frozen=True)
class Sheet(Generic[Row]):
    """A sheet as read: its rows by name, and "file line n" of each."""

    path: Path
    rows: dict[str, Row]
    where: dict[str, str]


def read_rows(model: type[Row], path: Path) -> Sheet[Row]:
    """The sheet at ``path``; ConfigError (one line) for a row that is not such a model, or has the name of another."""
    rows: dict[str, Row] = {}
    where: dict[str, str] = {}
    for line, cells in read_sheet(path):
        at = f"{path} line {line}"
        row = validate(model, cells, at)
        if row.name in rows:
            raise ConfigError(f"{at}: name '{row.name}' stands already at {where[row.name]}; names are unique")
        rows[row.name], where[row.name] = row, at
    return Sheet(path, rows, where)
