"""A table as data: rows of cells, each with the published value and the measured one, ready for every writer."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

from reals.experiment.metric_table import METRICS
from reals.report.results import Result
from reals.report.tables.conditions import Conditions

Status = Literal["measured", "missing", "literature"]


@dataclass(frozen=True)
class Cell:
    """One metric of one row: the published value as printed (None: blank) and ours.

    ``measured`` is a number, or a text in tables of settings; it is None unless ``status`` is "measured".
    ``provenance`` is the result that the number comes from (None in tables of settings). Where the row is repeated with
    several seeds, ``by_seed`` holds the value of each that is measured, ``measured`` is their mean, and ``planned`` counts
    those that the sheet asks for. ``best``: no row of its section is better, as printed.
    """

    published: str | None
    measured: float | str | None
    status: Status
    provenance: Result | None = None
    by_seed: Mapping[int, float] = field(default_factory=dict)
    planned: int = 0
    best: bool = False

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds (n - 1); None with fewer than two."""
        return statistics.stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None


@dataclass(frozen=True)
class Change:
    """Relative change of the FID against the row's baseline, in percent; negative is better.

    Where both rows have seeds in common ``measured`` and ``deviation`` (None with one) are of the changes seed by seed.
    """

    published: float | None
    measured: float | None
    deviation: float | None = None


@dataclass(frozen=True)
class Mean:
    """Mean change over the ``pairs`` of which the paper prints both ends, and over those also measured."""

    published: float
    pairs: int
    measured: float | None
    measured_pairs: int


@dataclass(frozen=True)
class Group:
    """The columns of one metric: its name, whose features we measure it on (None: no network's), if anything is published.

    ``ours`` heads our column: "measured", "used" for settings, or "counted" by the plan. ``change``: the relative change stands beside it.
    """

    metric: str
    name: str
    extractor: str | None
    published: bool
    ours: str
    change: bool

    @property
    def heading(self) -> str:
        """The metric's name with an arrow towards better."""
        return f"{self.name} {METRICS[self.metric].arrow}".strip()


@dataclass(frozen=True)
class Heading:
    """What stands over the columns of one metric or of the changes: a title, and "published" (if so) and ``ours`` below it."""

    title: str
    published: bool
    ours: str

    @property
    def columns(self) -> tuple[str, ...]:
        return ("published", self.ours) if self.published else (self.ours,)


@dataclass(frozen=True)
class Row:
    """``note`` is a 1-based index into the table's notes; ``labels`` are in the order of its columns."""

    key: str
    section: str | None
    labels: tuple[str, ...]
    source: str
    cells: tuple[Cell, ...]
    change: Change | None
    note: int | None

    @property
    def literature(self) -> bool:
        """If the row is typed from the paper, with nothing to measure."""
        return all(cell.status == "literature" for cell in self.cells)


@dataclass(frozen=True)
class Table:
    """One table, ready to be written in any format.

    ``columns`` head the labels, ``label_names`` are their names in the sheet. ``compare``: changes of the FID are shown, and
    ``mean`` is of those. ``protocol``: how what it shows was measured, what -> how. ``missing`` names what must still be measured, e.g. "evaluation sit-b2-reals".
    """

    name: str
    title: str
    source: str
    columns: tuple[str, ...]
    label_names: tuple[str, ...]
    groups: tuple[Group, ...]
    rows: tuple[Row, ...]
    compare: bool
    mean: Mean | None
    notes: tuple[str, ...]
    remarks: tuple[str, ...]
    conditions: Conditions
    protocol: Mapping[str, str]
    missing: tuple[str, ...]

    @property
    def number(self) -> str:
        """ "table03" is "Table 3"; a table that is not the paper's goes by its name."""
        number = self.name.removeprefix("table")
        return f"Table {int(number)}" if number.isdigit() else self.name.capitalize()

    @property
    def published(self) -> bool:
        """If the paper prints anything in it."""
        return any(group.published for group in self.groups)

    @property
    def repeated(self) -> bool:
        """If some row is measured with several seeds."""
        return any(cell.deviation is not None for row in self.rows for cell in row.cells)

    @property
    def headings(self) -> tuple[Heading, ...]:
        """What stands over the columns right of the labels, from left to right: the change beside the FID that it is of."""
        found = []
        for group in self.groups:
            found.append(Heading(group.heading, group.published, group.ours))
            if group.change:
                found.append(Heading(f"Δ{group.name} (%)", group.published, group.ours))
        return tuple(found)

    @property
    def sections(self) -> list[tuple[str | None, list[Row]]]:
        """The rows under the heading of their section, in order; None: rows without one."""
        return [(section, list(rows)) for section, rows in groupby(self.rows, key=lambda row: row.section)]
