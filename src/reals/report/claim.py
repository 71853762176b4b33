"""Does the claim hold? The arms of a scale's claim compared seed by seed, and the verdict by the rule of its claim.yaml."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from reals.experiment.claim_sheet import UNDECIDED, ClaimSheet, Condition
from reals.experiment.metric_table import JUDGES, METRICS, metric_name, named
from reals.experiment.registry import Registry
from reals.experiment.repeats import repeats
from reals.report import paired
from reals.report.results import Result, Results
from reals.report.tables.wording import as_printed

MOST_SEEDS = 100  # that `more_seeds` tries
ROUNDING = 1e-12  # relative changes that differ by less are one


@dataclass(frozen=True)
class Change:
    """How much lower or higher the claimed arm's FID is than another arm's at one milestone, over seeds that both have.

    ``by_seed`` are relative changes (-0.15 is 15% lower). ``mean`` is that of their logarithms, back as a change, and ``low`` to
    ``high`` its interval, None for a single seed. ``claimed`` and ``other`` are the FIDs of these seeds.
    """

    metric: str
    milestone: str
    steps: int
    against: str
    claimed: Mapping[int, float]
    other: Mapping[int, float]
    confidence: float

    @property
    def seeds(self) -> list[int]:
        return list(self.claimed)

    @property
    def by_seed(self) -> dict[int, float]:
        return {seed: self.claimed[seed] / self.other[seed] - 1 for seed in self.claimed}

    @property
    def logarithms(self) -> list[float]:
        return [math.log(self.claimed[seed] / self.other[seed]) for seed in self.claimed]

    @property
    def mean(self) -> float:
        return math.expm1(statistics.mean(self.logarithms))

    @property
    def interval(self) -> tuple[float, float] | None:
        return self.interval_of(len(self.claimed)) if len(self.claimed) > 1 else None

    def interval_of(self, count: int) -> tuple[float, float]:
        """The interval that ``count`` seeds with the same mean and standard deviation would have."""
        mean, half = (
            statistics.mean(self.logarithms),
            paired.half_width(paired.deviation(self.logarithms), count, self.confidence),
        )
        return math.expm1(mean - half), math.expm1(mean + half)

    @property
    def sign_p(self) -> float:
        return paired.sign_test(self.logarithms)


@dataclass(frozen=True)
class Reached:
    """When another arm's FID is down to ``value``, the claimed arm's at its last milestone, ``at`` steps; None: not by its own last."""

    metric: str
    arm: str
    value: float
    at: int
    steps: float | None
    first: int
    last: int
    seeds: Sequence[int]

    @property
    def said(self) -> str:
        if self.steps is None:
            return f"{self.arm} does not reach it in {self.last:,} steps"
        if self.steps <= self.first:
            return f"{self.arm} is there by its first milestone, {self.first:,} steps"
        return f"{self.arm} needs {self.steps:,.0f} steps"


@dataclass(frozen=True)
class Findings:
    """What the measured pairs say of a claim; ``changes`` in the order of judges, milestones and arms."""

    sheet: ClaimSheet
    changes: Sequence[Change]
    reached: Sequence[Reached]
    left_out: Sequence[str]  # pairs that are measured and not compared, in words
    last: str  # milestone
    judges: Mapping[str, str]  # metric -> how it is printed

    @property
    def seeds(self) -> list[int]:
        """Those with a pair anywhere."""
        return sorted({seed for change in self.changes for seed in change.seeds})

    @property
    def deciding(self) -> dict[tuple[str, str], Change]:
        """(metric, arm) -> the comparison at the last milestone."""
        return {(c.metric, c.against): c for c in self.changes if c.milestone == self.last}

    @property
    def verdict(self) -> str:
        return self._verdict(None)

    def _verdict(self, count: int | None) -> str:
        """The first verdict that holds; with ``count``, as if so many seeds had the same means and deviations."""
        return next((v for v in self.sheet.verdicts if not self.against(v, count)), UNDECIDED)

    def against(self, verdict: str, count: int | None = None) -> list[str]:
        """What keeps a verdict from holding, a clause each."""
        missing = []
        for arm, condition in self.sheet.verdicts[verdict].items():
            for metric in self.sheet.metrics:
                change = self.deciding.get((metric, arm))
                interval = None if change is None else change.interval if count is None else change.interval_of(count)
                if change is None or interval is None:
                    seeds = "one seed" if change else "no seed"
                    missing.append(f"{self.judges[metric]} against {arm} has {seeds} at {self.last}, and two at least are needed")
                else:
                    missing += [
                        f"{self.judges[metric]} against {arm}: {what}" for what in _unmet(condition, change.mean, interval)
                    ]
        return missing

    @property
    def excluded(self) -> list[str]:
        """Sentences about the means that verdicts ask for and that the intervals of every judge leave out: effects that are not there."""
        said: dict[str, None] = {}
        for conditions in self.sheet.verdicts.values():
            for arm, condition in conditions.items():
                lows = [c.interval[0] for m in self.sheet.metrics if (c := self.deciding.get((m, arm))) and c.interval]
                bound = condition.mean_at_most
                if bound is not None and len(lows) == len(self.sheet.metrics) and min(lows) > bound:
                    ends = ", ".join(percent(low, bound) for low in lows)
                    said[
                        f"A change of {percent(bound)} against {arm} is outside the interval of every judge (lower ends {ends})."
                    ] = None
        return list(said)

    @property
    def more_seeds(self) -> tuple[int, str] | None:
        """(number of seeds, verdict) that the same means and standard deviations would give with the fewest seeds; None: none does.

        Only where all comparisons of the last milestone have two seeds.
        """
        if any(len(c.seeds) < 2 for c in self.deciding.values()) or len(self.deciding) < len(self.sheet.metrics) * len(
            self.sheet.others
        ):
            return None
        for count in range(2, MOST_SEEDS + 1):
            if (verdict := self._verdict(count)) != UNDECIDED:
                return count, verdict
        return None

    @property
    def what_decides(self) -> str | None:
        """A sentence about an undecided claim; None for one that is decided."""
        if self.verdict != UNDECIDED:
            return None
        if len(self.seeds) < 2:
            return "One seed cannot tell an effect from chance: run more (column seeds of autoencoders.tsv and runs.tsv)."
        if self.more_seeds is None:
            return (
                f"With these means and deviations not even {MOST_SEEDS} seeds would decide: the judges or the arms disagree, or the "
                "effect lies between the rule's bounds."
            )
        count, verdict = self.more_seeds
        return f"With these means and deviations, {count} seeds would decide: {verdict}."


def _unmet(condition: Condition, mean: float, interval: tuple[float, float]) -> list[str]:
    low, high = interval
    faults = []
    if (bound := condition.mean_at_most) is not None and not mean <= bound:
        faults.append(f"the mean, {percent(mean, bound)}, is not at most {percent(bound)}")
    for bound, side in ((condition.interval_below, "below"), (condition.interval_above, "above")):
        if bound is not None and not (high < bound if side == "below" else low > bound):
            faults.append(f"the interval, {percent(low, bound)} to {percent(high, bound)}, is not {side} {percent(bound)}")
    return faults


def percent(value: float, *beside: float) -> str:
    """A relative change as text, "-14.2%": with as many decimals as tell it from zero and from others that it stands ``beside``."""
    if abs(value) < ROUNDING:
        return "0%"
    others = [0.0, *(other for other in beside if abs(other - value) >= ROUNDING)]
    decimals = next(d for d in range(1, 12) if all(round(100 * value, d) != round(100 * other, d) for other in others))
    return f"{100 * value:+.{decimals}f}%"


def findings(registry: Registry, results: Results) -> Findings | None:
    """What is measured of the scale's claim; None where it has none, or no pair of it is measured."""
    sheet = registry.experiment.claim
    if sheet is None:
        return None
    changes: list[Change] = []
    reached: list[Reached] = []
    left_out: dict[str, None] = {}
    for metric in sheet.metrics:
        found = [
            change
            for place in range(len(sheet.arms[sheet.claimed]))
            for arm in sheet.others
            if (change := _change(registry, results, metric, place, arm, left_out))
        ]
        changes += found
        for arm in sheet.others:
            if when := _reached(registry, [change for change in found if change.against == arm], len(sheet.arms[arm])):
                reached.append(when)
    last = registry.experiment.evaluations[sheet.arms[sheet.claimed][-1]].milestone
    judges: dict[str, str] = {metric: _judge_name(registry, metric) for metric in sheet.metrics}
    return Findings(sheet, changes, reached, list(left_out), last, judges) if changes else None


def _change(registry: Registry, results: Results, metric: str, place: int, arm: str, left_out: dict[str, None]) -> Change | None:
    """One comparison; pairs that two copies of a judge measured are added to ``left_out`` instead."""
    experiment = registry.experiment
    sheet = experiment.claim
    assert sheet is not None
    names = sheet.arms[sheet.claimed][place], sheet.arms[arm][place]
    ours, theirs = (_by_seed(registry, results, name) for name in names)
    claimed: dict[int, float] = {}
    other: dict[int, float] = {}
    for seed in sorted(ours.keys() & theirs.keys()):
        one, two = ours[seed], theirs[seed]
        if metric not in one["values"] or metric not in two["values"]:
            continue
        if _judge(one, metric) != _judge(two, metric):
            left_out[f"{one['name']} and {two['name']} were measured by two copies of a feature extractor; measure one again"] = (
                None
            )
            continue
        claimed[seed], other[seed] = _distance(one, metric), _distance(two, metric)
    milestone = experiment.evaluations[names[0]].milestone
    steps = experiment.scale.milestones[milestone]
    return Change(metric, milestone, steps, arm, claimed, other, sheet.confidence) if claimed else None


def _judge_name(registry: Registry, metric: str) -> str:
    extractor, facts = registry.judges.get(metric, registry.extractor).name, METRICS[metric]
    if facts.network is not None:
        return named(facts.printed, extractor, facts.network)
    return metric_name("fid" if metric == "fid_second" else metric, extractor)


def _by_seed(registry: Registry, results: Results, name: str) -> dict[int, Result]:
    """Seed -> what is measured of an evaluation, of every seed that is."""
    evaluations, seeds = registry.experiment.evaluations, registry.experiment.scale.seeds
    own = evaluations[name].seed
    named = repeats(evaluations, name) or {seeds.transformer if own is None else own: name}
    found = {seed: results["evaluation", other] for seed, other in named.items()}
    return {seed: result for seed, result in found.items() if result is not None}


def _distance(result: Result, metric: str) -> float:
    value = result["values"][metric]
    if not (isinstance(value, int | float) and value > 0 and math.isfinite(value)):
        raise ValueError(f"{result['id']}: metrics.json says that {metric} is {value}; delete it and run snakemake")
    return float(value)


def _judge(result: Result, metric: str) -> str | None:
    """Which copy of the feature extractor measured; None in files of before this was recorded."""
    return result["provenance"].get(f"{JUDGES[metric]}_extractor_sha256" if metric in JUDGES else "extractor_sha256")


def _reached(registry: Registry, changes: Sequence[Change], milestones: int) -> Reached | None:
    """Over the seeds that both arms have at every milestone, by geometric means; None where there is no such seed."""
    if len(changes) < milestones or not (seeds := set[int].intersection(*(set(change.claimed) for change in changes))):
        return None
    target = statistics.geometric_mean(changes[-1].claimed[seed] for seed in seeds)
    curve = [(c.steps, statistics.geometric_mean(c.other[seed] for seed in seeds)) for c in changes]
    assert all(a < b for (a, _), (b, _) in pairwise(curve))
    change = changes[-1]
    return Reached(
        change.metric,
        change.against,
        target,
        change.steps,
        paired.first_at(curve, target),
        curve[0][0],
        curve[-1][0],
        sorted(seeds),
    )


def rows(found: Findings) -> list[tuple[str, ...]]:
    """Below `head`: a line for each comparison."""
    return [
        (
            found.judges[change.metric], f"{change.steps:,}", change.against, _mean(change.metric, change.claimed), _mean(change.metric, change.other), percent(change.mean),
            "{} to {}".format(*map(percent, change.interval)) if change.interval else "-", f"{change.sign_p:.2g}",
            ", ".join(percent(by) if change.seeds == found.seeds else f"{percent(by)} (seed {seed})" for seed, by in change.by_seed.items()),
        )
        for change in found.changes
    ]  # fmt: skip


def head(found: Findings) -> tuple[str, ...]:
    interval = f"{100 * found.sheet.confidence:g}% interval"
    return ("judge", "steps", "against", found.sheet.claimed, "other arm", "change", interval, "sign test p", "seed by seed")


def sentences(found: Findings) -> list[str]:
    """What stands below the table, the verdict last."""
    claimed, seeds = found.sheet.claimed, ", ".join(map(str, found.seeds))
    others = "" if all(change.seeds == found.seeds for change in found.changes) else "; lines of fewer name theirs"
    said = f"{'Seed' if len(found.seeds) == 1 else 'Seeds'} {seeds}{others}."
    lines = [f"{said} A change is that of the mean logarithm; ± is a standard deviation."]
    lines += [
        f"{found.judges[r.metric]}: {claimed} is at {as_printed(r.metric, r.value)} after {r.at:,} steps; {r.said}{_over(r)}."
        for r in found.reached
    ]
    lines += [f"Left out: {what}." for what in found.left_out]
    lines += found.excluded
    if found.verdict == UNDECIDED:
        if len(found.seeds) > 1:
            lines += [f'Not "{verdict}": {"; ".join(found.against(verdict))}.' for verdict in found.sheet.verdicts]
        lines.append(f"Verdict: {UNDECIDED}. {found.what_decides}")
    else:
        lines.append(f"Verdict: {found.verdict}.")
    return lines


def _over(reached: Reached) -> str:
    return f" (geometric means of seeds {', '.join(map(str, reached.seeds))})" if len(reached.seeds) > 1 else ""


def _mean(metric: str, values: Mapping[int, float]) -> str:
    every = list(values.values())
    return as_printed(metric, statistics.mean(every), statistics.stdev(every) if len(every) > 1 else None)
