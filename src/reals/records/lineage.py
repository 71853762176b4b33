"""Where a number or a file comes from, down to data and seeds: what `reals why` prints."""

import os
import statistics
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from reals import files
from reals.experiment.artefact import Artefact
from reals.experiment.graph import Graph
from reals.experiment.metric_table import METRICS
from reals.experiment.reading import ConfigError
from reals.experiment.registry import Registry
from reals.records import metrics, provenance, published

IN_FULL = 3  # lineages of one cell's seeds


class Places:
    """Where a file of the DAG is looked for: in the results that are shown (own or published), and records in both."""

    def __init__(self, registry: Registry):
        self.target, self.published = registry.root, published.twin(registry).root
        self.shown = published.shown(registry).root

    def own(self, path: Path) -> Path:
        """The path that Snakemake knows a file by, of one of a published copy too."""
        return self.target / path.relative_to(self.published) if path.is_relative_to(self.published) else path

    def of(self, target: str) -> Path:
        """The file among what is shown; where it is not there, where Snakemake would make it."""
        path = self.shown / Path(target).relative_to(self.target)
        return path if path.exists() else Path(target)

    def record_of(self, target: str) -> Path:
        """The record of a file's making: among what is shown, else the published one."""
        name = provenance.path_of(Path(target)).relative_to(self.target)
        return record if (record := self.shown / name).exists() else self.published / name


def resolve(registry: Registry, what: str) -> tuple[str, tuple[str, ...]]:
    """(what it is, targets) of a file below results/, an artefact's id or name, or ``table03:row:column``.

    A cell of a row that is repeated with several seeds has a target for each, the sheet's own row first; all else has one.
    Its value is of the results that are shown (`published.shown`). ConfigError names what is close where nothing fits.
    """
    graph, places = Graph(registry), Places(registry)
    if what.count(":") >= 1 and not Path(what).exists():
        return _cell(graph, places, what)
    path = places.own(Path(os.path.relpath(what)) if Path(what).is_absolute() else Path(what))
    if str(path) in graph.jobs:
        return str(path), (str(path),)
    found = [
        job
        for job in graph.jobs.values()
        if Path(job.target).parent in (path, *path.parents) or what in (job.artefact.id, job.artefact.name)
    ]
    exact = [job for job in found if job.number is not None and f"step_{job.number}" in path.name]
    if exact or found:
        # Of several by one name: what was measured, else what was drawn or trained last.
        best = min(exact or found, key=lambda j: (not j.stage.measures, j.stage.numbering is None, -(j.number or 0)))
        return what, (best.target,)
    raise ConfigError(
        f"{what}: nothing of scale '{registry.experiment.scale.name}' is called so; give a file below {registry.root}, an id "
        f"that `reals ids` lists, or a cell as table03:<row>:<column>"
    )


def _cell(graph: Graph, places: Places, what: str) -> tuple[str, tuple[str, ...]]:
    registry = graph.registry
    name, _, rest = what.partition(":")
    row_key, _, metric = rest.partition(":")
    tables = registry.experiment.tables
    if name not in tables:
        raise ConfigError(f"{what}: there is no table '{name}'; known: {', '.join(tables)}")
    sheet = tables[name]
    row = next((r for r in sheet.rows if r.key == row_key), None)
    if row is None:
        raise ConfigError(f"{what}: {name} has no row '{row_key}'; known: {', '.join(r.key for r in sheet.rows)}")
    if metric and metric not in sheet.metrics:
        raise ConfigError(f"{what}: {name} has no column '{metric}'; known: {', '.join(sheet.metrics)}")
    if row.source == "literature":
        raise ConfigError(f"{what}: typed from the paper ({row.published.get(metric) or 'blank'}); nothing measures it")
    if sheet.source == "settings":
        raise ConfigError(f"{what}: a setting; it is read from the scale file, and nothing measures it")
    if metric and METRICS[metric].counted:
        raise ConfigError(f"{what}: counted from the networks' sizes, as `reals plan` counts; nothing measures it")
    kind, source = row.measured(sheet.source, metric) if metric else (sheet.source, row.source)
    targets = graph.behind_cell(sheet, kind, source)
    found = {seed: places.of(target) for seed, target in targets.items()}
    shown = _value(found, metric) if metric else f", {len(targets)} seeds" * (len(targets) > 1)
    published = f" (published {row.published[metric]})" if metric and row.published[metric] is not None else ""
    return f"{name}, row {row_key}, {metric or 'all columns'}{shown}{published}", tuple(targets.values())


def _value(targets: Mapping[int | None, Path], metric: str) -> str:
    """What the table prints of these metrics files (seed -> file), in more digits: nothing before the first is measured."""
    made = {seed: metrics.read(path)["values"] for seed, path in targets.items() if path.exists()}
    values = {seed: found[metric] for seed, found in made.items() if metric in found}
    if next(iter(targets)) not in values:
        return " is not measured yet"
    mean = f" = {statistics.mean(values.values()):.6g}"
    if len(targets) == 1:
        return mean
    spread = f" ± {statistics.stdev(values.values()):.6g}" if len(values) > 1 else ""
    some = f"{len(values)} of {len(targets)}" if len(values) < len(targets) else len(values)
    return f"{mean}{spread}, mean of {some} seeds (" + ", ".join(f"seed {k}: {v:.6g}" for k, v in values.items()) + ")"


def lineage(registry: Registry, *targets: str) -> Iterator[str]:
    """Lines of the trees behind files, down to data and seeds; each artefact in full once, of many files the first in full."""
    graph, places, seen = Graph(registry), Places(registry), set[str]()
    for target in targets[:IN_FULL]:
        yield from _tree(graph, places, seen, target, 0, None)
    for target in targets[IN_FULL:]:
        yield from islice(_tree(graph, places, seen, target, 0, None), 2)  # what it is, and its file
    if (more := len(targets) - IN_FULL) > 0:
        yield f"(the last {more} in short; `reals why` of a file has the rest)"


def _tree(graph: Graph, places: Places, seen: set[str], target: str, depth: int, expected: str | None) -> Iterator[str]:
    """A file and what it was made from; ``seen`` is what stands above already, ``expected`` its sha256 when it was used."""
    job, path, indent = graph.jobs[target], places.of(target), "  " * depth
    again = target in seen
    seen.add(target)
    state = ("" if path.exists() else "  (not here)") + ("  (above)" if again else "")
    yield f"{indent}{job.artefact.kind} {job.artefact.id}{f' step {job.number}' if job.number else ''}{state}"
    if again:
        return
    record = places.record_of(target)
    made = provenance.read(record) if record.exists() else {}
    own = (_file(path, expected, made.get("sha256")), *_facts(graph.registry, job.artefact), *_before(path), *_making(made, seen))
    for line in own:
        yield f"{indent}    {line}"
    if not made and path.exists():
        yield f"{indent}    (no record of its making: made elsewhere or before there were records)"
    for needed in dict.fromkeys(job.needs):
        yield from _tree(graph, places, seen, needed, depth + 1, made.get("inputs", {}).get(needed))


def _file(path: Path, expected: str | None, recorded: str | None) -> str:
    if not path.exists() and recorded is not None:
        return f"{path}  sha256 {recorded[:16]} by its record"
    if not path.exists() or path.suffix == ".npy":
        return str(path)
    digest = files.sha256(path)
    changed = f"  DIFFERS: it was {expected[:16]} when this was used" if expected is not None and expected != digest else ""
    return f"{path}  sha256 {digest[:16]}{changed}"


def _facts(registry: Registry, artefact: Artefact) -> Iterator[str]:
    if row := provenance.row_of(registry, artefact):
        yield "row: " + ", ".join(f"{k} {_plain(v)}" for k, v in row.items())
    if facts := {k: v for k, v in artefact.identity.items() if k == "seed" or k.endswith("sha256")}:
        yield ", ".join(f"{k} {v}" for k, v in facts.items())


def _before(path: Path) -> Iterator[str]:
    """That a file was made again because somebody told so (-R, -F, -f), and where what was made before is."""
    folder = path.parent
    for earlier in sorted(folder.parent.glob(f"{provenance.SET_ASIDE}/*/{folder.name}/{path.name}")):
        yield f"made again, as told: that of before is {earlier}"


def _making(made: Mapping[str, Any], seen: set[str]) -> Iterator[str]:
    """When, where and with what a file was made, by its record; versions once for all files below that have the same."""
    for attempt in made.get("attempts", []):
        took = f"{attempt['wall']:.1f} s, {attempt['cpu']:.1f} CPU s" if "wall" in attempt else "not finished in this attempt"
        yield f"made {attempt['began']} on {attempt['device']}: {took}, code {attempt['code']}"
    if made:
        versions = f"Python {made.get('python')}, " + ", ".join(f"{k} {v}" for k, v in made.get("packages", {}).items() if v)
        if versions not in seen:
            yield f"with {versions} (and so below, unless said otherwise)"
        seen.add(versions)


def _plain(value: Any) -> str:
    if isinstance(value, dict):  # a sampler: its name and settings
        return ",".join(str(v) if k == "name" else f"{k}={v}" for k, v in value.items())
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
