"""Results: the metrics file of every row, those of a repeated row together."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from reals import files
from reals.experiment.registry import Registry
from reals.experiment.repeats import repeats
from reals.experiment.rows import Repeatable
from reals.planning import prices
from reals.planning.counts import counts
from reals.planning.networks import Networks
from reals.records import metrics, published


class Repeat(TypedDict):
    """What one seed of a repeated row measured."""

    seed: int
    id: str
    values: dict[str, float]


class OverSeeds(TypedDict, total=False):
    """What a result says of the seeds of its row."""

    planned: int
    repeats: list[Repeat]


class Result(TypedDict):
    """A metrics file: what was measured, under which protocol, and from which files.

    ``curve`` is the training log behind it: "step" and the losses, as long as each other; empty or None where there is none.
    Where the row is repeated, ``repeats`` are the seeds that are measured, the row's own first, and ``planned`` counts those
    that the sheet asks for.
    """

    kind: str
    name: str
    id: str
    values: dict[str, float]
    protocol: dict[str, str | int | float]
    provenance: dict[str, Any]  # JSON of any shape, shown on the page as it is
    curve: NotRequired[dict[str, list[float]] | None]
    repeats: NotRequired[list[Repeat]]
    planned: NotRequired[int]


Results = Mapping[tuple[str, str], Result | None]
"""(kind, name of the row) -> its result, None while it is not measured. Kinds: evaluation, autoencoder, downstream."""


FORMER_KEYS = {"feature network": "feature extractor", "second judge": "second extractor"}
"""Keys of the protocol in metrics files made before there was one term -> the keys since."""


def read(path: Path) -> Result:
    """A metrics file, whenever it was made."""
    result = cast(Result, metrics.read(path))
    result["protocol"] = {FORMER_KEYS.get(key, key): value for key, value in result["protocol"].items()}
    return result


def load(registry: Registry) -> dict[tuple[str, str], Result | None]:
    """The results of all rows of an experiment."""
    experiment = registry.experiment
    results: dict[tuple[str, str], Result | None] = {}
    for kind, artefacts, rows in (
        ("evaluation", registry.evaluations, experiment.evaluations),
        ("autoencoder", registry.analyses, experiment.autoencoders),
        ("downstream", registry.downstream, {}),
    ):
        for name, artefact in artefacts.items():
            path = registry.folder(artefact) / "metrics.json"
            try:
                results[kind, name] = read(path) if path.exists() else None
            except files.MissingArtefact:
                if (root := published.ROOT) in path.parents:
                    raise ValueError(f"{path}: damaged; `git checkout -- {path.parent}` brings back what {root} held") from None
                raise
        if kind == "autoencoder":
            _count(registry, results)
        for name in artefacts:
            result = results[kind, name]
            if result is not None:
                result |= _over_seeds(_of_seeds(results, kind, rows, name))
    return results


def with_later_seeds(registry: Registry, results: Results) -> Results:
    """The same, and where a row's first seed is not measured yet the result of a later one that is, with the values of all: for
    what is shown over seeds."""
    experiment, found = registry.experiment, dict(results)
    for kind, rows in (("evaluation", experiment.evaluations), ("autoencoder", experiment.autoencoders)):
        for name in rows:
            seeds = _of_seeds(results, kind, rows, name)
            measured = [result for result in seeds.values() if result is not None]
            if results[kind, name] is None and measured:
                found[kind, name] = {**measured[0], **_over_seeds(seeds)}
    return found


def _of_seeds(results: Results, kind: str, rows: Mapping[str, Repeatable], name: str) -> dict[int, Result | None]:
    """Seed -> the result of the row that stands for it; {} of a row that is not repeated."""
    return {seed: results[kind, other] for seed, other in repeats(rows, name).items()}


def _over_seeds(seeds: Mapping[int, Result | None]) -> OverSeeds:
    """Of the results by seed; empty of a row that is not repeated."""
    if not seeds:
        return {}
    made = [Repeat(seed=seed, id=one["id"], values=one["values"]) for seed, one in seeds.items() if one is not None]
    return {"planned": len(seeds), "repeats": made}


def _count(registry: Registry, results: dict[tuple[str, str], Result | None]) -> None:
    """Writes into the autoencoders' results what the plan counts of them (`Metric.counted`)."""
    networks = Networks(registry, counts(registry))
    for name, artefact in registry.autoencoders.items():
        result = results["autoencoder", name]
        if result is not None:
            result["values"]["fine_tuning"] = prices.fine_tuning(networks, artefact) / 1e12


def by_seed(result: Result, metric: str) -> dict[int, float]:
    """Seed -> a metric, of each seed that is measured; {} where the row is not repeated."""
    return {r["seed"]: float(r["values"][metric]) for r in result.get("repeats", []) if metric in r["values"]}


def values(result: Result | None, metric: str, over_seeds: bool = True) -> list[float]:
    """A metric of each seed that is measured; one value where the row is not repeated or ``over_seeds`` is False.

    Empty while the row, or this of it, is not measured.
    """
    if result is None:
        return []
    first = [float(result["values"][metric])] if metric in result["values"] else []
    return list(by_seed(result, metric).values() if over_seeds else ()) or first
