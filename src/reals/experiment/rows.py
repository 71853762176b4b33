"""Rows of the sheets: the autoencoders, transformer runs and evaluations that the paper compares."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Self, TypeVar, cast

from pydantic import BeforeValidator, Field, model_validator

from reals.experiment.reading import ConfigError, Name, Seed, Strict, comma_separated, dash_is_none, read_sheet, validate
from reals.experiment.sampler_table import (
    CHAIN_STEPS,
    LEAST_OF_HEUN,
    SAMPLERS,
    DiffusionForm,
    Family,
    GuidedChannels,
    IntervalTime,
    LastStep,
    SamplerName,
)

Weight = Annotated[float, Field(ge=0)]


def _settings(cell: Any) -> Any:
    """``name`` or ``name:key=value,key=value`` as a mapping."""
    if not isinstance(cell, str):
        return cell
    name, _, settings = cell.partition(":")
    pairs = [part.strip().partition("=") for part in settings.split(",")] if settings else []
    keys = ["name", *(key.strip() for key, _, _ in pairs)]
    if twice := [key for i, key in enumerate(keys) if key in keys[:i]]:
        raise ValueError(f"{twice[0]} stands there twice (got '{cell}')")
    return dict(zip(keys, [name, *(value.strip() for _, _, value in pairs)], strict=True))


class SamplerCell(Strict):
    """``sde``, or ``sde:form=linear,last=tweedie``: a sampler, and what differs from the scale's steps and the paper's settings."""

    name: SamplerName
    steps: int | None = Field(default=None, ge=2)  # what they mean says `sampler_table`
    form: DiffusionForm | None = None
    norm: float | None = Field(default=None, gt=0)
    last: LastStep | None = None
    last_size: float | None = Field(default=None, ge=0, lt=1)
    eta: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        sampler = SAMPLERS[self.name]
        for key in self.model_fields_set - {"name", *sampler.settings}:
            raise ValueError(f"{key} means nothing to {self.name}, which takes {', '.join(sampler.settings) or 'no settings'}")
        if sampler.even and self.steps is not None and self.steps % 2:
            raise ValueError(f"{self.name} with {self.steps} evaluations: Heun needs two a step, so an even number")
        if sampler.even and self.steps is not None and self.steps < LEAST_OF_HEUN:
            raise ValueError(f"{self.name} with {self.steps} evaluations: expected at least {LEAST_OF_HEUN}, two steps of two")
        if sampler.family == "DiT" and self.steps is not None and self.steps > CHAIN_STEPS:
            raise ValueError(f"{self.name} with {self.steps} steps: DiT's chain has {CHAIN_STEPS}")
        if self.last == "none" and self.name == "heun-sde":
            raise ValueError("last=none: Heun would need the score at t = 1, which is infinite; use mean")
        if self.last is not None and self.last_size is not None and (self.last == "none") != (self.last_size == 0):
            raise ValueError("last=none has last_size=0, and only that")
        if self.last is None and self.last_size == 0:
            raise ValueError("last_size=0 is for last=none")
        return self


def _dash_is_no(cell: Any) -> Any:
    return False if cell == "-" else cell


def _chance(cell: Any) -> Any:
    """None, "yes" or a share of the steps."""
    if not isinstance(cell, str) or cell in ("-", "no", "yes"):
        return None if cell in ("-", "no") else cell
    try:
        share = float(cell)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise ValueError(f"expected yes, '-' or a share of the steps above 0 and at most 1 (got '{cell}')")
    return share


def _seeds(cell: Any) -> Any:
    return () if cell == "-" else comma_separated(cell)


class Repeatable(Strict):
    """A row that stands for one training with each of its ``seeds`` (optional column).

    Where there are several, reading the sheet adds a row ``<name>-seed<n>`` for each after the first: its ``seeds`` is that one,
    and ``repeat_of`` the name of the row in the sheet.
    """

    name: Name
    """Unique in the sheet; part of the ids."""
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(_seeds)] = ()
    """Seeds to train with, such as 0,1,2; '-' or no column: the scale's. In evaluations.tsv: which of its run's seeds; else all."""
    repeat_of: str | None = None  # never in a sheet: what repeats.py writes

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {','.join(map(str, self.seeds))} name one twice")
        return self

    @property
    def seed(self) -> int | None:
        """The seed of this very row; None where the scale says it."""
        return self.seeds[0] if self.seeds else None


class AutoencoderRow(Repeatable):
    """An autoencoder: what it starts from, what it is aligned to, and the weights of its losses."""

    init: str
    """base: the scale's entry of this name; else the row it is fine-tuned from."""
    teacher: Annotated[Literal["large", "base"] | None, BeforeValidator(dash_is_none)]
    """Whose features the latents are aligned to."""
    patch: Annotated[bool, BeforeValidator(_dash_is_no)]
    """Align to the teacher's patch tokens."""
    cls: Annotated[bool, BeforeValidator(_dash_is_no)]
    """Align to its cls token."""
    layers: Annotated[Annotated[int, Field(ge=1, le=16)] | None, BeforeValidator(dash_is_none)]
    """Layers of the align MLP."""
    lambda_k: Annotated[Weight | None, BeforeValidator(dash_is_none)]
    """Weight of the KL, times the scale's lambda_k_factor."""
    lambda_a: Annotated[Weight | None, BeforeValidator(dash_is_none)]
    """Weight of the alignment; of align vf VA-VAE's w_hyper (theirs is 0.1)."""
    align: Annotated[Literal["reals", "vf"] | None, BeforeValidator(dash_is_none)] = None
    """Loss of the alignment. reals, '-' or no column: Eq. 2; vf: VA-VAE's, which takes patch yes, cls no and layers 1."""
    equivariance: Annotated[Literal["yes"] | float | None, BeforeValidator(_chance)] = None
    """EQ-VAE's regulariser: yes, or in which share of the steps; '-' or no column: none."""
    note: str | None = None
    """For readers of the sheet."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        aligned = self.patch or self.cls
        if self.init != "base" and (self.lambda_k is None or self.lambda_a is None):
            raise ValueError("a fine-tuned autoencoder needs lambda_k and lambda_a")
        if aligned and (self.teacher is None or self.layers is None):
            raise ValueError("alignment (patch or cls = yes) needs a teacher (large or base) and layers")
        if self.init == "base" and aligned:
            raise ValueError("init 'base' is not aligned: set patch and cls to '-', or init to another row")
        if self.init == "base" and self.equivariance is not None:
            raise ValueError(
                "init 'base' is not fine-tuned, so nothing regularises it: set equivariance to '-', or init to another row"
            )
        if self.align == "reals" and not aligned:
            raise ValueError("align reals aligns patch or cls: set one of them to yes, or align to '-'")
        if self.align == "vf" and not (self.patch and not self.cls and self.layers == 1):
            raise ValueError(
                "align vf projects each latent linearly to a teacher's patch feature: it takes patch yes, cls no, layers 1"
            )
        return self


class RunRow(Repeatable):
    """A training of a transformer on the latents of an autoencoder."""

    model: Annotated[str, Field(pattern=r"^(DiT|SiT)-(S|B|L|XL)/(1|2|4|8)$")]
    """Family, size and patch, such as SiT-B/2."""
    autoencoder: str = Field(min_length=1)
    """A row of autoencoders.tsv."""
    repa: bool
    """Train with REPA's alignment."""
    milestones: Annotated[tuple[str, ...], BeforeValidator(comma_separated), Field(min_length=1)]
    """Names of the scale's milestones, ascending: each continues the one before."""
    path: Annotated[Literal["gvp", "vp"] | None, BeforeValidator(dash_is_none)] = None
    """The interpolant; '-' or no column: SiT's linear path."""
    scaling_factor: Annotated[Annotated[float, Field(gt=0)] | None, BeforeValidator(dash_is_none)] = None
    """What the latents are multiplied by; '-' or no column: the autoencoder's own factor."""
    times: Annotated[Literal["logit-normal"] | None, BeforeValidator(dash_is_none)] = None
    """How a SiT's training times are drawn. logit-normal: the sigmoid of a standard normal, as LightningDiT and Stable Diffusion 3
    do; '-' or no column: uniformly."""

    @model_validator(mode="after")
    def _has_a_path(self) -> Self:
        if self.times is not None and self.family == "DiT":
            raise ValueError(f"times {self.times} is for SiT runs; DiT draws steps of its chain")
        if self.path is not None and (self.family == "DiT" or self.repa):
            raise ValueError(f"path {self.path} is for SiT runs without repa; DiT has its own schedule and REPA the linear path")
        return self

    @property
    def family(self) -> Family:
        return "DiT" if self.model.startswith("DiT-") else "SiT"

    @property
    def size(self) -> Literal["S", "B", "L", "XL"]:
        return cast(Literal["S", "B", "L", "XL"], self.model.split("-")[1].split("/")[0])  # as the pattern of ``model`` has it

    @property
    def patch(self) -> int:
        return int(self.model.split("/")[1])


class EvaluationRow(Repeatable):
    """Samples of a run to draw and measure.

    Its repeats are those of its run; ``seeds`` names some of them where evaluating all would take too long.
    """

    run: str
    """A row of runs.tsv."""
    milestone: str
    """One of its milestones."""
    sampler: Annotated[SamplerCell, BeforeValidator(_settings)]
    """A sampler of `sampler_table` and what is set of it, such as sde or ode:steps=50."""
    cfg: float = Field(ge=1)
    """Guidance scale; 1: none."""
    interval: Annotated[tuple[float, float] | None, BeforeValidator(comma_separated)]
    """Guide only while the time is within low,high."""
    interval_time: Annotated[IntervalTime | None, BeforeValidator(dash_is_none)]
    """What the interval counts: noise (1 is noise, as REPA) or data (1 is data, as SiT)."""
    cfg_channels: Annotated[GuidedChannels | None, BeforeValidator(dash_is_none)]
    """Guided latent channels: 3 (DiT, SiT) or all (REPA)."""
    samples: Literal["all", "gallery"]
    """all: the scale's number of samples; gallery: the few that figures show."""

    @model_validator(mode="after")
    def _guided(self) -> Self:
        if self.cfg != 1 and self.cfg_channels is None:
            raise ValueError("guidance (cfg above 1) needs cfg_channels: 3 or all")
        if self.interval is not None:
            low, high = self.interval
            if not 0 <= low < high <= 1:
                raise ValueError(f"interval {low},{high} must satisfy 0 <= low < high <= 1")
            if self.interval_time is None:
                raise ValueError("an interval needs interval_time: noise or data")
        elif self.interval_time is not None:
            raise ValueError(f"interval_time {self.interval_time} says what an interval counts, and there is none: set it to '-'")
        if self.cfg == 1 and (self.interval, self.cfg_channels) != (None, None):
            raise ValueError("cfg 1 is no guidance, so interval and cfg_channels change nothing: set them to '-'")
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
