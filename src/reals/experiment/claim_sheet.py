"""The claim that a scale can check: which evaluations compare its arms, and the rule that says what they show."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from reals.experiment.reading import Strict

UNDECIDED = "undecided"


class Condition(Strict):
    """What must hold of the relative change of a judge's distance against an arm (-0.15 is 15% lower): every key that is set."""

    mean_at_most: float | None = None
    """The mean is this or less."""
    interval_below: float | None = None
    """The whole interval lies below this."""
    interval_above: float | None = None
    """The whole interval lies above this."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("set mean_at_most, interval_below or interval_above")
        return self


class ClaimSheet(Strict):
    """What `reals claim` compares, seed by seed, and the rule by which it says what that shows."""

    statement: str
    """What the paper says, in a sentence."""
    metrics: Annotated[tuple[Literal["fid", "fid_second", "sfid", "fd_dinov2", "cmmd"], ...], Field(min_length=1)]
    """The judges: a verdict must hold by each."""
    claimed: str
    """The arm that the statement is about."""
    arms: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]]
    """Arm -> its evaluations, from the earliest milestone to the last. All arms have the same milestones, samplers and guidance."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Of the intervals, which are Student's t of the logarithms' differences."""
    verdicts: Annotated[dict[str, dict[str, Condition]], Field(min_length=1)]
    """Verdict -> arm that is compared with -> what must hold at the last milestone by every judge. The first that holds is the
    verdict; where none does it is undecided."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.claimed not in self.arms:
            raise ValueError(f"claimed: '{self.claimed}' is none of the arms ({', '.join(self.arms)})")
        if not self.others:
            raise ValueError("arms: name one to compare with")
        for arm, names in self.arms.items():
            if len(names) != len(self.arms[self.claimed]):
                raise ValueError(f"arms: {arm} has {len(names)} evaluations, {self.claimed} {len(self.arms[self.claimed])}")
        for verdict, conditions in self.verdicts.items():
            if verdict == UNDECIDED or not conditions:
                raise ValueError(
                    f"verdicts: {verdict}: " + ("is what holds where none does" if conditions else "has no condition")
                )
            for arm in conditions:
                if arm not in self.others:
                    raise ValueError(f"verdicts: {verdict}: '{arm}' is no arm to compare with ({', '.join(self.others)})")
        return self

    @property
    def others(self) -> tuple[str, ...]:
        """The arms that the claimed one is compared with."""
        return tuple(arm for arm in self.arms if arm != self.claimed)
