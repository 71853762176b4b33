"""Results that travel with the repository: results/published/<scale>, written from a finished results/<scale> and read where a clone
has measured nothing itself.

It mirrors results/<scale>, with the measured numbers, the arrays that figures are drawn from, and of everything behind them the records
and thinned logs. Nothing of it counts as made to Snakemake. No host name and no absolute path goes in.
"""

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from reals import files
from reals.experiment.artefact import Artefact
from reals.experiment.figure_table import figures
from reals.experiment.graph import Graph
from reals.experiment.registry import Registry
from reals.records import journal, metrics, provenance

ROOT = files.PUBLISHED
FACTS = "published.json"
DRAWN = ("report.html", "metrics.json", "evaluations.csv")  # beside tables/ and figures/, by `reals.report.commands.draw`
LOG_LINES = 100  # at most, of a training log
LOG_DIGITS = 6  # of its numbers: a float32 has seven
LARGEST_RECORD = 2**16  # bytes of an index.json: that of a folder of files lists them all
PRIVATE = ("host",)
# The folders of an absolute path: of a text, or a word of a command, that is one and may have spaces; in any other text up to a space.
WHOLE = re.compile(r"^([\w.-]+=)?(?:file://)?/(?!.*\s/)(?!.*\.\w+\s)(?:[^/:\n]+/)+(?=[^/:\n]+$)")
ABSOLUTE = re.compile(r"(?<![\w./-])(?:file://)?/(?:[^\s/:,'\"]+/)+(?=[^\s/:,'\"]+)")
JOURNAL = "journal.jsonl"


def twin(registry: Registry) -> Registry:
    """The same artefacts in the published folder."""
    return Registry(registry.experiment, ROOT / registry.experiment.scale.name)


def shown(registry: Registry) -> Registry:
    """Where the results to show are: ``registry`` itself, or its `twin` where only that has a number."""
    if any(measured(registry)):
        return registry
    other = twin(registry)
    return other if any(measured(other)) else registry


def measured(registry: Registry) -> Iterator[Artefact]:
    """The artefacts of an experiment whose numbers are there, each once."""
    ids = set()
    for artefact in registry.all():
        if artefact.stage.measures and artefact.id not in ids and registry.outputs(artefact)[0].exists():
            ids.add(artefact.id)
            yield artefact


def facts(registry: Registry) -> dict[str, Any] | None:
    """What FACTS says of the results of a `twin`; None of results that are not published. ValueError where it is gone or damaged."""
    if ROOT not in registry.root.parents:
        return None
    try:
        found: dict[str, Any] = files.read_json(registry.root / FACTS)
        if not all(isinstance(found.get(key), list) for key in ("made", "code", "config")):
            raise files.MissingArtefact
    except files.MissingArtefact:
        raise ValueError(
            f"{registry.root / FACTS}: missing or damaged; `git checkout -- {registry.root}` brings it back"
        ) from None
    return found


def note(registry: Registry) -> str | None:
    """The line that published results are shown with; None of results that were made here."""
    if (found := facts(registry)) is None:
        return None
    days, code = found["made"], found["code"]
    when = " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "at a time that is not recorded"
    by = code[-1] if len(code) == 1 else f"{len(code)} versions of the code, the last {code[-1]}" if code else "unrecorded code"
    return f"published results, made {when} by {by}; your own runs take their place"


def write(registry: Registry, told: Registry) -> Registry:
    """Publishes what is measured in ``registry``; the twin that holds it now, still without what is drawn.

    ``told`` is the same experiment as it may be told to others. What was published earlier and is still part of the experiment stays
    where this folder has nothing in its place. ValueError where nothing is measured.
    """
    other = twin(told)
    if not any(measured(registry)):
        raise ValueError(f"nothing of scale {registry.experiment.scale.name} is measured in {registry.root}; run snakemake first")
    content = dict(_content(registry, told, other))
    for name, data in content.items():
        if data is not None and not ((path := other.root / name).exists() and path.read_bytes() == data):
            files.write_atomically(path, partial(_put, data))
    files.write_json(other.root / FACTS, _facts(other))
    _prune(other, {other.root / name for name in content})
    return other


def restore(registry: Registry) -> tuple[int, int]:
    """Copies published numbers to where Snakemake takes them for made; (copied, left since they are here). ValueError for a damaged one."""
    other, copied, left = twin(registry), 0, 0
    for artefact in measured(other):
        source, folder = other.folder(artefact), registry.folder(artefact)
        last = registry.outputs(artefact)[0]
        if last.exists():
            left += 1
            continue
        _refuse_damaged(source / last.name)
        for path in sorted(
            source.rglob("*"), key=lambda path: path.name == last.name
        ):  # the numbers come last: then all is there
            if path.is_file():
                if path.name in ("spec.json", files.MANIFEST):
                    files.read_json(path)
                files.write_atomically(folder / path.relative_to(source), partial(shutil.copyfile, path))
        copied += 1
    if copied:
        lines = _journal_lines([registry.root / JOURNAL, other.root / JOURNAL], None)
        files.write_text(registry.root / JOURNAL, "".join(lines))
    return copied, left


def _put(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def _refuse_damaged(path: Path) -> None:
    record = provenance.path_of(path)
    digest = provenance.read(record).get("sha256") if record.exists() else None
    if digest is not None and digest != files.sha256(path):
        raise ValueError(f"{path}: damaged, {record} says other bytes; `git checkout -- {path.parent}` brings it back")


def _content(registry: Registry, told: Registry, other: Registry) -> Iterator[tuple[Path, bytes | None]]:
    """(file below the published folder, its bytes); None: as it is published already."""
    graph = Graph(told)
    numbers = {artefact.id: artefact for artefact in (*measured(registry), *measured(other))}
    targets = {graph.target(artefact) for artefact in numbers.values()}
    behind = graph.behind(targets)
    for target in sorted(behind):
        job, name = graph.jobs[target], Path(target).relative_to(told.root)
        if job.stage.measures:
            for path in job.asked:
                yield from _either(registry, other, path.relative_to(told.root), _number)
        for beside, read in (("spec.json", _cleaned), (files.MANIFEST, _manifest), ("log.jsonl", _thinned)):
            yield from _either(registry, other, name.with_name(beside), read)
        for output in job.outputs:
            again = provenance.remake(told, output)
            record = provenance.path_of(output).relative_to(told.root)
            yield from _either(registry, other, record, partial(_record, again))
    lines = _journal_lines([registry.root / JOURNAL, other.root / JOURNAL], {graph.jobs[t].artefact.id for t in behind})
    yield Path(JOURNAL), "".join(lines).encode()


def _either(
    registry: Registry, other: Registry, name: Path, read: Callable[[Path], bytes | None]
) -> Iterator[tuple[Path, bytes | None]]:
    """A file of this folder, by ``read``, else the one that is published already, if there is one."""
    if (path := registry.root / name).exists():
        if (data := read(path)) is not None:
            yield name, data
    elif (other.root / name).exists():
        yield name, None


def clean(value: Any) -> Any:
    """JSON without what is private: keys that name a machine, and the folders of absolute paths."""
    if isinstance(value, dict):
        return {
            key: _clean_command(inside) if key == "command" and isinstance(inside, str) else clean(inside)
            for key, inside in value.items()
            if key not in PRIVATE
        }
    if isinstance(value, list):
        return [clean(inside) for inside in value]
    return _clean_text(value) if isinstance(value, str) else value


def _clean_text(text: str) -> str:
    text = WHOLE.sub(r"\1", text)
    for place in (os.path.expanduser("~"), os.getcwd()):
        if " " in place:  # elsewhere a space ends a path
            text = text.replace(f"{place}/", f"{place.replace(' ', '_')}/")
    return ABSOLUTE.sub("", text)


def _clean_command(text: str) -> str:
    """A command, whose words with spaces are quoted."""
    try:
        return shlex.join(map(_clean_text, shlex.split(text)))
    except ValueError:
        return _clean_text(text)


def _text(content: Any) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def _cleaned(path: Path) -> bytes:
    return _text(clean(files.read_json(path)))


def _number(path: Path) -> bytes:
    """A measured file as it is, so that its recorded hash holds; ValueError where it names this machine."""
    if path.suffix == ".json" and clean(content := metrics.read(path)) != content:
        raise ValueError(f"{path} names a host or an absolute path, and is published as it is or not at all")
    return path.read_bytes()


def _manifest(path: Path) -> bytes | None:
    return _cleaned(path) if path.stat().st_size <= LARGEST_RECORD else None


def _record(again: str, path: Path) -> bytes:
    return _text(clean(provenance.read(path) | {"command": again}))


def _thinned(path: Path) -> bytes:
    """A training log of LOG_LINES lines at most, evenly spaced, the last always among them, its numbers of LOG_DIGITS digits."""
    lines = files.read_lines(path)
    every = max(1, -(-len(lines) // LOG_LINES))
    kept = lines[len(lines) - 1 :: -every][::-1] if lines else []
    return "".join(json.dumps(clean({key: _short(value) for key, value in line.items()})) + "\n" for line in kept).encode()


def _short(value: Any) -> Any:
    return float(f"{value:.{LOG_DIGITS}g}") if isinstance(value, float) else value


def _journal_lines(books: list[Path], ids: set[str] | None) -> list[str]:
    """Finished jobs of several journals, each once, by their beginning; of these artefacts alone where ``ids`` are given."""
    records = [record for book in books for record in journal.lines(book)]
    kept = [r for r in records if ids is None or (r.get("artefact") in ids and r["stage"] != journal.ENGINE)]
    lines = {json.dumps(clean(record)) + "\n": record["began"] for record in kept}
    return sorted(lines, key=lambda line: (lines[line], line))


def _facts(other: Registry) -> dict[str, Any]:
    """Days and code versions of the measurements themselves, as their records say."""
    attempts: list[dict] = []
    count = 0
    for artefact in measured(other):
        record = provenance.path_of(other.outputs(artefact)[0])
        attempts += provenance.read(record).get("attempts", [])[-1:] if record.exists() else []
        count += 1
    attempts.sort(key=lambda attempt: attempt["began"])
    days = [attempt["began"][:10] for attempt in attempts]
    return {
        "scale": other.experiment.scale.name,
        "config": list(other.experiment.overrides),
        "measured": count,
        "made": sorted({days[0], days[-1]}) if days else [],
        "code": list(dict.fromkeys(attempt["code"] for attempt in attempts)),
    }


def _prune(other: Registry, content: set[Path]) -> None:
    """Removes what is no longer of the experiment."""
    expected = content | {other.root / name for name in (FACTS, *DRAWN)}
    tables, drawn = other.experiment.tables.keys(), figures(other).keys()
    for path in sorted(other.root.rglob("*"), reverse=True):  # what is in a folder before the folder
        of_table = path.parent == other.root / "tables" and path.stem in tables
        of_figure = path.parent == other.root / "figures" and path.stem in drawn and path.suffix == ".png"
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif path not in expected and not of_table and not of_figure:
            path.unlink()
