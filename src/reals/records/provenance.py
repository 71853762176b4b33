"""What each artefact was made from, by what, where and in what time: a small file beside it, and the lineage read from them.

``made/<file>.json`` stands beside a file that a stage makes: inputs with their hashes, the row of the sheet, scale, code
and package versions, device, wall-clock and CPU seconds. It is no part of any identity.
"""

import os
import shlex
import socket
import statistics
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from itertools import islice
from pathlib import Path

from reals import files
from reals.experiment.graph import Graph
from reals.experiment.reading import ConfigError
from reals.experiment.registry import Artefact, Registry
from reals.machine import usage
from reals.planning import rates

PACKAGES = ("torch", "torchvision", "diffusers", "timm", "lpips", "torch-fidelity", "numpy", "scipy", "pillow")
IN_FULL = 3  # lineages of one cell's seeds


def path_of(target: Path) -> Path:
    """Where the record of a stage's file is."""
    return target.parent / "made" / f"{target.name}.json"


def row_of(registry: Registry, artefact: Artefact) -> dict:
    """The line of the sheet that an artefact comes from; empty for those the scale alone defines."""
    sheet = artefact.stage.sheet
    row = getattr(registry.experiment, sheet).get(artefact.name) if sheet else None
    stated = row.model_dump(mode="json", exclude_none=True) if row else {}
    return {"sheet": f"{sheet}.tsv", **{k: v for k, v in stated.items() if v not in ([], {})}} if row else {}


@contextmanager
def recorded(registry: Registry, artefact: Artefact, number: int | None = None) -> Iterator[None]:
    """Records the making of an artefact, or of its step or shard ``number``: first what it is made from, then what it took.

    A job killed in between leaves a record without times; one that goes on adds its own.
    """
    job = Graph(registry).job(artefact, number)
    target = job.outputs[0]
    path = path_of(target)
    earlier = files.read_json(path).get("attempts", []) if path.exists() else []
    attempt = {
        "began": datetime.now(UTC).isoformat(timespec="seconds"), "host": socket.gethostname(),
        "device": rates.this_device(int(os.environ.get("REALS_THREADS", "1"))),
        "processes": int(os.environ.get("WORLD_SIZE", "1")), "code": files.code_version(),
    }  # fmt: skip
    made = {
        "artefact": artefact.id, "kind": artefact.kind, "scale": registry.experiment.scale.name,
        "command": remake(registry, target), "row": row_of(registry, artefact),
        "inputs": {needed: _digest(Path(needed)) for needed in job.needs},
        "python": sys.version.split()[0], "packages": {name: _version(name) for name in PACKAGES},
    }  # fmt: skip
    files.write_json(path, made | {"attempts": [*earlier, attempt]})
    with usage.measured() as times:
        yield
    digest = _digest(target)
    files.write_json(path, made | ({"sha256": digest} if digest else {}) | {"attempts": [*earlier, attempt | times]})


def refuse_damaged(target: Path) -> None:
    """MissingArtefact where a file is not the one that was made, as far as there is a record of its making."""
    record = path_of(target)
    digest = files.read_json(record).get("sha256") if record.exists() else None
    if digest is not None:
        files.refuse_damaged(target, digest, record)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _digest(path: Path) -> str | None:
    """The sha256 of an input; of sample shards the evaluation records its own, and what is gone has none."""
    return files.sha256(path) if path.exists() and path.suffix != ".npy" else None


def remake(registry: Registry, *targets: Path) -> str:
    """The command that makes files."""
    return shlex.join(["snakemake", *map(str, targets), "--config", *registry.experiment.overrides])


def resolve(registry: Registry, what: str) -> tuple[str, tuple[str, ...]]:
    """(what it is, targets) of a file below results/, an artefact's id or name, or ``table03:row:column``.

    A cell of a row that is repeated with several seeds has a target for each, the sheet's own row first; all else has one.
    ConfigError names what is close where nothing fits.
    """
    graph = Graph(registry)
    if what.count(":") >= 1 and not Path(what).exists():
        return _cell(graph, what)
    path = Path(os.path.relpath(what)) if Path(what).is_absolute() else Path(what)
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


def _cell(graph: Graph, what: str) -> tuple[str, tuple[str, ...]]:
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
    evaluated, experiment = sheet.source == "evaluation", registry.experiment
    artefacts = registry.evaluations if evaluated else registry.analyses
    rows = experiment.evaluations if evaluated else experiment.autoencoders
    names = sheet.behind(rows, row.source)
    targets = {seed: graph.target(artefacts[other]) for seed, other in names.items()}
    shown = _value(targets, metric) if metric else f", {len(targets)} seeds" * (len(targets) > 1)
    published = f" (published {row.published[metric]})" if metric and row.published[metric] is not None else ""
    return f"{name}, row {row_key}, {metric or 'all columns'}{shown}{published}", tuple(targets.values())


def _value(targets: Mapping[int | None, str], metric: str) -> str:
    """What the table prints of these metrics files (seed -> file), in more digits: nothing before the first is measured."""
    made = {seed: files.read_json(Path(target))["values"] for seed, target in targets.items() if Path(target).exists()}
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
    graph, seen = Graph(registry), set()

    def walk(key: str, depth: int, expected: str | None) -> Iterator[str]:
        job = graph.jobs[key]
        artefact, path, indent = job.artefact, Path(key), "  " * depth
        again = key in seen
        seen.add(key)
        state = "" if path.exists() else "  (not here)"
        yield f"{indent}{artefact.kind} {artefact.id}{f' step {job.number}' if job.number else ''}{state}{'  (above)' if again else ''}"
        if again:
            return
        indent += "    "
        record = path_of(path)
        made = files.read_json(record) if record.exists() else {}
        if path.exists() and path.suffix != ".npy":
            digest = files.sha256(path)
            changed = f"  DIFFERS: it was {expected[:16]} when this was used" if expected not in (None, digest) else ""
            yield f"{indent}{key}  sha256 {digest[:16]}{changed}"
        else:
            yield f"{indent}{key}"
        row = row_of(registry, artefact)
        if row:
            yield f"{indent}row: " + ", ".join(f"{k} {_plain(v)}" for k, v in row.items())
        facts = {k: v for k, v in artefact.identity.items() if k == "seed" or k.endswith("sha256")}
        if facts:
            yield f"{indent}" + ", ".join(f"{k} {v}" for k, v in facts.items())
        for attempt in made.get("attempts", []):
            took = f"{attempt['wall']:.1f} s, {attempt['cpu']:.1f} CPU s" if "wall" in attempt else "not finished in this attempt"
            yield f"{indent}made {attempt['began']} on {attempt['device']}: {took}, code {attempt['code']}"
        if made:
            versions = f"Python {made['python']}, " + ", ".join(f"{k} {v}" for k, v in made["packages"].items() if v)
            if versions not in seen:
                yield f"{indent}with {versions} (and so below, unless said otherwise)"
            seen.add(versions)
        elif path.exists():
            yield f"{indent}(no record of its making: made elsewhere or before there were records)"
        for needed in dict.fromkeys(job.needs):
            yield from walk(needed, depth + 1, made.get("inputs", {}).get(needed))

    for target in targets[:IN_FULL]:
        yield from walk(target, 0, None)
    for target in targets[IN_FULL:]:
        yield from islice(walk(target, 0, None), 2)  # what it is, and its file
    if (more := len(targets) - IN_FULL) > 0:
        yield f"(the last {more} in short; `reals why` of a file has the rest)"


def _plain(value) -> str:
    if isinstance(value, dict):  # a sampler: its name and settings
        return ",".join(str(v) if k == "name" else f"{k}={v}" for k, v in value.items())
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
