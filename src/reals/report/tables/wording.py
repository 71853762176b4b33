"""How a table reads in every format: its numbers and marks, and the sentences around it."""

import math
from dataclasses import dataclass

from reals.experiment.metric_table import ADM_EXTRACTOR, METRICS
from reals.experiment.spelling import LITERATURE, LITERATURE_MARK, MINUS, MISSING
from reals.report.tables.conditions import Conditions
from reals.report.tables.model import Cell, Change, Group, Row, Table

MOST_DECIMALS = 8  # of a distance near zero; what is smaller is rounding


@dataclass(frozen=True)
class Printed:
    """The text of one cell right of the labels; ``published`` and ``best`` tell how to set it.

    ``cell`` and ``group`` are set where it is what we measured of a metric, ``first`` where a heading begins with it.
    """

    text: str
    published: bool = False
    best: bool = False
    cell: Cell | None = None
    group: Group | None = None
    first: bool = True


def shown(metric: str, cell: Cell) -> str:
    """The measured half of a cell as text: a number, a setting, or the mark for missing or literature."""
    if cell.measured is None:
        return MISSING if cell.status == "missing" else LITERATURE
    if isinstance(cell.measured, str):
        return cell.measured
    return as_printed(metric, cell.measured, cell.deviation)


def as_printed(metric: str, value: float, deviation: float | None = None) -> str:
    """A metric's value with as many decimals as the paper prints, of a small distance more, and its deviation if there is one."""
    decimals = METRICS[metric].decimals
    if METRICS[metric].distance and 0 < abs(value) < 1:
        decimals = min(max(decimals, 2 - math.floor(math.log10(abs(value)))), MOST_DECIMALS)
    spread = "" if deviation is None else f" ± {deviation:.{decimals}f}"
    return fixed(value, decimals) + spread


def fixed(value: float, decimals: int) -> str:
    """A number with so many decimals, and no minus before a zero."""
    return f"{round(value, decimals) + 0.0:.{decimals}f}"


def percent(value: float | None, deviation: float | None = None) -> str:
    """A signed percentage with one decimal and a true minus, and its deviation if there is one; "" for None."""
    if value is None:
        return ""
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", MINUS) + ("" if deviation is None else f" ± {deviation:.1f}")


def printed(table: Table, row: Row) -> list[Printed]:
    """What stands right of a row's labels, in the order of ``table.headings`` and their columns."""
    cells = []
    for group, cell in zip(table.groups, row.cells, strict=True):
        cells += [Printed(cell.published or "", published=True)] * group.published
        cells.append(Printed(shown(group.metric, cell), False, cell.best, cell, group, first=not group.published))
        if group.change:
            change = row.change or Change(None, None)
            cells += [Printed(percent(change.published), published=True)] * group.published
            cells.append(Printed(percent(change.measured, change.deviation), first=not group.published))
    return cells


def caveat(conditions: Conditions) -> str | None:
    """The sentence that everything not at the paper's scale carries; None at the paper's."""
    if conditions.paper:
        return None
    return (
        f"Measured at {conditions.scale} scale, not under the paper's protocol: measured figures are not comparable "
        "with published ones; compare measured figures with each other."
    )


def mean_sentence(table: Table) -> str | None:
    """The mean change of the FID; None where the paper compares no pair."""
    mean = table.mean
    if mean is None:
        return None
    ours = f"{percent(mean.measured)} %" if mean.measured is not None else MISSING
    some = f" ({mean.measured_pairs} of them)" if 0 < mean.measured_pairs < mean.pairs else ""
    return (
        f"Mean ΔFID over the {mean.pairs} pair{'s' * (mean.pairs > 1)} the paper compares: "
        f"published {percent(mean.published)} %, measured {ours}{some}."
    )


def legend(table: Table) -> list[str]:
    """The sheet's remarks, then the meaning of each mark that this table uses."""
    cells = [cell for row in table.rows for cell in row.cells]
    lines = list(table.remarks)
    if any(group.heading != group.name for group in table.groups):
        best = " The best measured value of each section is in bold." if any(cell.best for cell in cells) else ""
        lines.append(f"Arrows point to better.{best}")
    lines += _networks(table)
    if any(group.metric == "fid_interval" for group in table.groups):
        lines.append(
            "FID ±: half of the 95% interval that other samples of the same networks would give; other seeds move it more. Two FIDs "
            "closer than 1.4 of it are not told apart."
        )
    if table.repeated:
        lines.append(_seeds(table, cells))
    if any(cell.status == "missing" for cell in cells):
        lines.append(f"{MISSING} not measured yet at this scale.")
    if any(row.literature for row in table.rows):
        lines.append(f"{LITERATURE_MARK} literature: typed from the paper, nothing to measure ({LITERATURE}).")
    if any(group.metric == "ssim_paper" for group in table.groups):
        lines.append("SSIM is the paper's convention (7×7 window, data range 2 on images in [0, 1]).")
    if not table.conditions.paper:
        lines.append("Labels (models, sizes, steps, epochs) are the paper's.")
    return lines


def _networks(table: Table) -> list[str]:
    """On whose features each metric is measured, where that is not the literature's network for all."""
    of: dict[str, list[str]] = {}
    for group in table.groups:
        if group.extractor is not None:
            of.setdefault(group.extractor, []).append(group.name)
    if all(group.extractor in (None, METRICS[group.metric].network or ADM_EXTRACTOR) for group in table.groups):
        return []
    measured = "; ".join(f"{', '.join(names)} on features of {extractor}" for extractor, names in of.items())
    published = any(group.published and group.extractor not in (None, ADM_EXTRACTOR) for group in table.groups)
    return [f"Measured: {measured}." + " Published: on Inception's." * published]


def _seeds(table: Table, cells: list[Cell]) -> str:
    """What ± means here, and over how many seeds."""
    counts = {len(cell.by_seed) for cell in cells if cell.deviation is not None}
    few, many = min(counts), max(counts)
    seeds = f"{few}" if few == many else f"{few} to {many}"
    more = " (more are planned)" if any(0 < len(cell.by_seed) < cell.planned for cell in cells) else ""
    of = {
        "autoencoder": "of the autoencoder",
        "evaluation": "of the transformer, and of its autoencoder where that one is repeated too",
    }[table.source]
    change = ", ΔFID that of the changes seed by seed" if table.compare else ""
    return f"±: standard deviation over {seeds} seeds{more} {of}; the value is their mean{change}."
