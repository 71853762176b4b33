"""Sheets of the report: what each table and figure looks like and shows."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from reals.experiment.metric_table import METRICS, Source, metrics_of
from reals.experiment.reading import ConfigError, Strict, dash_is_none, read_sheet, read_yaml, unknown, validate
from reals.experiment.repeats import repeats
from reals.experiment.rows import Repeatable
from reals.experiment.spelling import unspelled


@dataclass(frozen=True)
class TableRow:
    """One row of a paper table: labels as printed, what measures it (`source`), published cells (None: blank).

    ``autoencoder``: where the source is an evaluation, the autoencoder whose latents were drawn, which a table's metrics may be of.
    """

    key: str
    section: str | None
    labels: dict[str, str]
    source: str
    baseline: str | None
    published: dict[str, str | None]
    note: str | None
    autoencoder: str | None = None

    def measured(self, source: Source, metric: str) -> tuple[Source, str]:
        """(kind, name) of what measures a metric of this row in a table of ``source``."""
        if METRICS[metric].source == "autoencoder" and self.autoencoder is not None:
            return "autoencoder", self.autoencoder
        return source, self.source


@dataclass(frozen=True)
class TableSheet:
    """One paper table with its rows; the fields as in `TableHead`."""

    name: str
    title: str
    columns: dict[str, str]
    metrics: tuple[str, ...]
    source: Source
    compare: bool
    rows: tuple[TableRow, ...]
    remarks: tuple[str, ...] = ()
    over_seeds: bool = True
    printed: Mapping[str, str] = field(default_factory=dict)
    on_request: bool = False

    def sources(self) -> dict[tuple[Source, str], None]:
        """(kind, name) of all that its rows and metrics are of, each once."""
        rows = [row for row in self.rows if row.source != "literature"]
        return dict.fromkeys(row.measured(self.source, metric) for row in rows for metric in self.metrics)

    def behind(self, rows: Mapping[str, Repeatable], source: str) -> dict[int | None, str]:
        """Seed -> row of the sheet, of all whose mean the table prints for ``source``, that one first."""
        several = repeats(rows, source) if self.over_seeds else {}
        return {seed: name for seed, name in several.items()} if several else {rows[source].seed: source}


class TableHead(Strict):
    """What a table looks like; its rows are in tables/<name>.tsv."""

    title: str
    """One sentence."""
    remarks: tuple[str, ...] = ()
    """Sentences below the table as a whole: what the paper leaves open or contradicts, and how we read it."""
    columns: dict[str, str] = Field(default={})
    """Label column of the sheet -> printed header."""
    metrics: tuple[str, ...] = ()
    """Names of `metric_table`, in order."""
    source: Source | None = None
    """What the sheet's source column names: an evaluation, an autoencoder, or a group of settings."""
    compare: bool = False
    """Print the relative change of the FID against the row's baseline, and its mean."""
    over_seeds: bool = True
    """false where rows with several seeds stand beside rows with one: each shows its first seed, not a mean."""
    printed: dict[str, str] = Field(default={})
    """Metric -> its header, where the metric's own would not be clear in this table."""
    on_request: bool = False
    """true: plain snakemake leaves it out; `snakemake only_<table>` makes it, and it is printed once all of it is measured."""
    same_as: str | None = None
    """The table repeats this one under its own title."""


AtLeastOne = Annotated[tuple[str, ...], Field(min_length=1)]


class FigureSheet(Strict):
    """What each figure shows, by names of autoencoders.tsv and evaluations.tsv."""

    figure1: dict[Literal["autoencoders"], tuple[str, str]]
    """t-SNE of latents and similarity of one token to all others, one column for each autoencoder."""
    figure3: dict[Literal["evaluation"], str]
    """A grid of samples."""
    figure4: dict[Literal["evaluation"], str]
    """Masks and depth read from generated latents through the alignment network."""
    figure5: dict[Literal["evaluations"], AtLeastOne]
    """FID against the KL weight, ascending."""
    checkpoints: dict[Literal["evaluations"], AtLeastOne]
    """The first samples of several checkpoints, one row each: the same noise and label down each column."""
    reconstructions: dict[Literal["autoencoders"], AtLeastOne]
    """Held-out images and their reconstructions."""


def read_tables(path: Path, folder: Path) -> tuple[dict[str, TableSheet], dict[tuple[str, str], str]]:
    """The tables that the file ``path`` heads, their rows from the sheets in ``folder``; and "file line n" of each (table, key).

    ConfigError (one line) for a table that could not be printed, and for a sheet that no table heads.
    """
    heads = {name: validate(TableHead, head, f"{path}: {name}") for name, head in read_yaml(path).items()}
    for name, head in heads.items():
        _check_head(head, f"{path}: {name}")
    for stray in sorted(folder.glob("*.tsv")):
        if stray.stem not in heads:
            raise ConfigError(f"{stray}: table '{stray.stem}' is not defined in {path}; add it there (title, columns, metrics)")
    sheets: dict[str, TableSheet] = {}
    where: dict[tuple[str, str], str] = {}
    for name, head in heads.items():
        if head.same_as is None:
            rows, at = _read_table_rows(folder / f"{name}.tsv", head)
            sheets[name] = _table(name, head, tuple(rows.values()))
            where |= {(name, key): line for key, line in at.items()}
    for name, head in heads.items():
        if head.same_as is not None:
            if head.same_as not in sheets:
                raise ConfigError(f"{path}: {name}: {unknown(head.same_as, sheets, 'same_as')}")
            twin = sheets[head.same_as]
            sheets[name] = dataclasses.replace(
                twin, name=name, title=head.title, remarks=twin.remarks + head.remarks, on_request=head.on_request
            )
    return {name: sheets[name] for name in heads}, where


def _check_head(head: TableHead, at: str) -> None:
    """ConfigError where a table could not be printed; ``at`` is its file and name."""
    headers = (("columns", head.columns.values()), ("printed", head.printed.values()))
    for key, texts in (("title", [head.title]), ("remarks", head.remarks), *headers):
        for wrong in filter(None, map(unspelled, texts)):
            raise ConfigError(f"{at}: {key}: {wrong}")
    if head.same_as is not None:
        return
    if head.source is None or not head.columns or not head.metrics:
        raise ConfigError(f"{at}: needs source, columns and metrics (or same_as)")
    known = metrics_of(head.source)
    if head.source == "evaluation":  # of the autoencoder behind it too
        known += metrics_of("autoencoder")
    for metric in (*head.metrics, *head.printed):
        if metric not in known:
            raise ConfigError(f"{at}: {unknown(metric, known, f'{head.source} metric')}")
    if head.compare and "fid" not in head.metrics:
        raise ConfigError(f"{at}: compare prints the change of the FID; add fid to metrics, or write compare: false")


def _read_table_rows(path: Path, head: TableHead) -> tuple[dict[str, TableRow], dict[str, str]]:
    """Rows of a table's sheet by key, and "file line n" of each; ConfigError (one line) for what could not be printed."""
    expected = ["key", "section", *head.columns, "source", "baseline", *head.metrics, "note"]
    rows: dict[str, TableRow] = {}
    where: dict[str, str] = {}
    for line, cells in read_sheet(path):
        at = f"{path} line {line}"
        if list(cells) != expected:
            odd = [c for c in cells if c not in expected] or [c for c in expected if c not in cells] or list(cells)
            raise ConfigError(f"{path}: unknown or missing column '{odd[0]}'; expected {', '.join(expected)}")
        key = cells["key"]
        if key in rows:
            raise ConfigError(f"{at}: key '{key}' stands already in this table; keys are unique")
        _check_cells(cells, head, at)
        where[key] = at
        rows[key] = TableRow(
            key=key,
            section=dash_is_none(cells["section"]),
            labels={c: cells[c] for c in head.columns},
            source=cells["source"],
            baseline=dash_is_none(cells["baseline"]),
            published={m: dash_is_none(cells[m]) for m in head.metrics},
            note=dash_is_none(cells["note"]),
        )
    for key, row in rows.items():
        if row.baseline is not None and row.baseline not in rows:
            raise ConfigError(f"{where[key]}: {unknown(row.baseline, rows, 'baseline')}")
    return rows, where


def _check_cells(cells: Mapping[str, str], head: TableHead, at: str) -> None:
    for metric in head.metrics:
        if head.source != "settings" and cells[metric] != "-" and not _is_number(cells[metric]):
            raise ConfigError(f"{at}: {metric} '{cells[metric]}' is not a number; write '-' for a blank")
    for column in ("section", *head.columns, *head.metrics, "note"):
        if wrong := unspelled(cells[column]):
            raise ConfigError(f"{at}: {column}: {wrong}")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _table(name: str, head: TableHead, rows: tuple[TableRow, ...]) -> TableSheet:
    assert head.source is not None  # _check_head refuses others
    return TableSheet(
        name=name,
        title=head.title,
        columns=head.columns,
        metrics=head.metrics,
        source=head.source,
        compare=head.compare,
        rows=rows,
        remarks=head.remarks,
        over_seeds=head.over_seeds,
        printed=head.printed,
        on_request=head.on_request,
    )
