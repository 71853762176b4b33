"""The report: one self-contained HTML page with every table, figure, provenance and time of a scale."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from reals.experiment.spelling import LITERATURE_MARK, MISSING
from reals.files import write_text
from reals.report import claim as claims
from reals.report.results import Result, Results
from reals.report.tables.conditions import Conditions
from reals.report.tables.model import Cell, Group, Row, Table
from reals.report.tables.stated import stated
from reals.report.tables.wording import caveat, fixed, legend, mean_sentence, printed
from reals.report.template import environment

ANALYSIS = {
    "latent_std": "latent std",
    "knn": "k-NN accuracy",
    "linear_probe": "linear probe accuracy",
    "silhouette": "silhouette",
    "sc_crop": "SC crop",
    "sc_flip": "SC flip",
    "sc_blur": "SC blur",
    "sc_grayscale": "SC grayscale",
    "sc_all": "SC all",
    "rfid": "rFID",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM (standard)",
    "ssim_paper": "SSIM (paper's)",
    "lpips": "LPIPS",
}
RELOAD_SECONDS = 30  # of a page whose run goes on
HASH = re.compile(r"[0-9a-f]{16,}")


@dataclass(frozen=True)
class Picture:
    """A figure of the page; ``png`` is None while its inputs do not exist."""

    name: str
    caption: str
    png: Path | None


@dataclass(frozen=True)
class StageTime:
    """What one stage cost: jobs run, and seconds summed over them."""

    stage: str
    jobs: int
    wall_seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Unfinished:
    """How far a run is: results ``measured`` ``of`` how many at time ``at``, the names of jobs that run and that still wait.

    ``going`` is False once the run has ended without the rest.
    """

    measured: int
    of: int
    at: str
    running: Sequence[str]
    waiting: Sequence[str]
    going: bool


def write(
    path: Path,
    conditions: Conditions,
    *,
    description: str,
    code_version: str,
    note: str | None = None,
    tables: Sequence[Table],
    pictures: Sequence[Picture],
    results: Results,
    commands: Mapping[tuple[str, str], str],
    overrides: str,
    times: Sequence[StageTime],
    claim: claims.Findings | None = None,
    unfinished: Unfinished | None = None,
) -> Path:
    """Write the page atomically; it needs no network and no other file, and its script only adds comfort.

    ``tables`` are built from the same ``results``. ``commands``: the one that makes each metrics file again; ``overrides``:
    what the commands on this scale take as --config; ``note``: what is said of published results.
    """
    templates = environment("reals.report")
    templates.filters |= {
        "short": short,
        "duration": duration,
        "printed": lambda row, table: printed(table, row),
        "mean_sentence": mean_sentence,
        "legend": legend,
        "anchor": anchor,
        "origin": partial(origin, overrides=overrides),
    }
    found = {name: result for name, result in results.items() if result is not None}
    text = templates.get_template("page.html.j2").render(
        conditions=conditions,
        protocol=_protocol(found, conditions),
        description=description,
        caveat=caveat(conditions),
        code_version=code_version,
        note=note,
        tables=tables,
        pictures=[(picture, _embedded(picture.png)) for picture in pictures],
        missing=_missing(tables, pictures),
        analysis=_analysis(found),
        sources=[(result, flatten(result["provenance"])) for _, result in sorted(found.items())],
        anchor_commands={anchor(result): commands.get(key) for key, result in found.items()},
        look=_beside("page.css"),
        script=_beside("page.js"),
        times=times,
        claim=claim
        and {"found": claim, "head": claims.head(claim), "rows": claims.rows(claim), "sentences": claims.sentences(claim)},
        unfinished=unfinished,
        reload_seconds=RELOAD_SECONDS,
        wall_seconds=sum(time.wall_seconds for time in times),
        cpu_seconds=sum(time.cpu_seconds for time in times),
        literature_mark=LITERATURE_MARK,
        missing_mark=MISSING,
    )
    write_text(path, text)
    return path


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """{"data": {"sha256": "ab"}} is {"data › sha256": "ab"}; lists are joined by commas."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name} › ")
        elif isinstance(value, list | tuple):
            flat[name] = ", ".join(map(str, value))
        else:
            flat[name] = str(value)
    return flat


def short(text: str) -> Markup:
    """Long hexadecimal digests cut to ten characters, whole on hover; all other text as it is."""
    out, at = Markup(""), 0
    for match in HASH.finditer(text):
        digest = match.group()
        out += text[at : match.start()]
        out += Markup('<abbr title="{}">{}…</abbr>').format(digest, digest[:10])
        at = match.end()
    return out + text[at:]


def duration(seconds: float) -> str:
    """ "2 h 05 min", "3 min 07 s" or "4.2 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def anchor(result: Result) -> str:
    """The page's id of a metrics file."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", f"{result['kind']}-{result['name']}")


def origin(cell: Cell, table: Table, row: Row, group: Group, *, overrides: str) -> str:
    """What a reader sees on pointing at a measured number: its metrics file, protocol, and the command for its lineage."""
    result = cell.provenance
    assert result is not None and isinstance(cell.measured, float)
    lines = [f"{result['kind']} {result['name']}", f"id: {result['id']}"]
    if cell.by_seed:
        lines += [f"seed {seed}: {value:.8g}" for seed, value in cell.by_seed.items()]
    else:
        lines.append(f"value: {cell.measured:.8g}")
    lines += [f"{key}: {value}" for key, value in result["protocol"].items()]
    return "\n".join([*lines, f"lineage: reals why {table.name}:{row.key}:{group.metric} --config {overrides}"])


def _protocol(found: Mapping[tuple[str, str], Result], conditions: Conditions) -> dict[str, str]:
    """How what is measured was, what all kinds of results say in the words of the first."""
    kinds: dict[str, list[Result]] = {}
    for (kind, _), result in found.items():
        kinds.setdefault(kind, []).append(result)
    lines = stated([], conditions.planned) if not found else {}
    for results in kinds.values():
        lines |= {key: how for key, how in stated(results, {}).items() if key not in lines}
    return lines


def _beside(name: str) -> Markup:
    """A file of this package, put into the page as it is."""
    return Markup(files("reals.report").joinpath(name).read_text())


def _embedded(png: Path | None) -> str | None:
    return None if png is None else base64.b64encode(png.read_bytes()).decode()


def _missing(tables: Sequence[Table], pictures: Sequence[Picture]) -> list[tuple[str, list[str]]]:
    """Each thing not measured, with the tables and figures that wait for it."""
    waiting: dict[str, list[str]] = {}
    for table in tables:
        for name in table.missing:
            waiting.setdefault(name, []).append(table.number)
    for picture in pictures:
        if picture.png is None:
            waiting.setdefault(f"inputs of {picture.name}", []).append(picture.name)
    return list(waiting.items())


def _analysis(found: Mapping[tuple[str, str], Result]) -> tuple[list[str], list[tuple[Result, list[str]]]]:
    """Header and rows of all autoencoders' values, without the metrics nobody has."""
    autoencoders = [result for (kind, _), result in found.items() if kind == "autoencoder"]
    metrics = [metric for metric in ANALYSIS if any(metric in result["values"] for result in autoencoders)]
    rows = [
        (result, [fixed(result["values"][m], 3) if m in result["values"] else MISSING for m in metrics])
        for result in autoencoders
    ]
    return [ANALYSIS[metric] for metric in metrics], rows
