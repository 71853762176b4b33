"""Builds a table: each cell from its sheet's published value and the result of its row, then what compares cells."""

import math
import statistics
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from reals.experiment.metric_table import JUDGES, METRICS, OF_EXTRACTOR
from reals.experiment.report_sheets import TableRow, TableSheet
from reals.report.results import Result, Results, by_seed
from reals.report.tables.conditions import Conditions
from reals.report.tables.model import Cell, Change, Group, Mean, Row, Table
from reals.report.tables.stated import stated
from reals.report.tables.wording import shown


def build(sheet: TableSheet, results: Results, conditions: Conditions) -> Table:
    """The table of one sheet.

    Raises ValueError if a metric is unknown, if one needs a feature extractor and the conditions name none, if a result was measured with another
    one, or if a value is not finite.
    """
    for metric in sheet.metrics:
        if metric not in METRICS:
            raise ValueError(f"{sheet.name}: unknown metric '{metric}'; expected one of {', '.join(METRICS)}")
    if conditions.extractor is None and any(metric in OF_EXTRACTOR for metric in sheet.metrics):
        raise ValueError(f"{sheet.name}: extractor is None, but the table has FID or its kin; name the feature extractor")
    cells = {row.key: tuple(_cell(sheet, row, metric, results, conditions) for metric in sheet.metrics) for row in sheet.rows}
    cells = _with_best(sheet, cells)
    changes = {row.key: _change(sheet, row, cells) for row in sheet.rows}
    notes = tuple(dict.fromkeys(row.note for row in sheet.rows if row.note is not None))
    missing = [
        " ".join(row.measured(sheet.source, metric))
        for row in sheet.rows
        for metric, cell in zip(sheet.metrics, cells[row.key], strict=True)
        if cell.status == "missing"
    ]
    return Table(
        name=sheet.name,
        title=sheet.title,
        source=sheet.source,
        columns=tuple(sheet.columns.values()),
        label_names=tuple(sheet.columns),
        groups=tuple(_group(sheet, metric, conditions) for metric in sheet.metrics),
        rows=tuple(
            Row(
                key=row.key,
                section=row.section,
                labels=tuple("" if row.labels[c] == "-" else row.labels[c] for c in sheet.columns),
                source=row.source,
                cells=cells[row.key],
                change=changes[row.key],
                note=notes.index(row.note) + 1 if row.note is not None else None,
            )
            for row in sheet.rows
        ),
        compare=sheet.compare,
        mean=_mean(changes.values()) if sheet.compare else None,
        notes=notes,
        remarks=(*sheet.remarks, *_copies(sheet, _shown(cells))),
        conditions=conditions,
        protocol={} if sheet.source == "settings" else _protocol(_shown(cells), conditions),
        missing=tuple(dict.fromkeys(missing)),
    )


def _shown(cells: Mapping[str, tuple[Cell, ...]]) -> list[Result]:
    """The results that a table shows, each once."""
    found = {cell.provenance["id"]: cell.provenance for row in cells.values() for cell in row if cell.provenance is not None}
    return list(found.values())


def _protocol(results: list[Result], conditions: Conditions) -> dict[str, str]:
    """What -> how: of samples and autoencoders apart where the table shows metrics of both and they differ."""
    kinds = {kind: [r for r in results if r["kind"] == kind] for kind in dict.fromkeys(r["kind"] for r in results)}
    if len(kinds) < 2:
        return stated(results, conditions.planned)
    lines: dict[str, dict[str, str]] = {}
    for kind, found in kinds.items():
        for key, how in stated(found, {}).items():
            lines.setdefault(key, {})[kind] = how
    one = {key: set(how.values()) for key, how in lines.items()}
    return {
        key: next(iter(one[key])) if len(one[key]) == 1 else "; ".join(f"{text} ({kind})" for kind, text in how.items())
        for key, how in lines.items()
    }


def _extractor(metric: str, conditions: Conditions) -> str | None:
    """On whose features the scale measures a metric; None: on no network's."""
    return conditions.extractor if metric in OF_EXTRACTOR else conditions.judges.get(metric)


def _used(metric: str, protocol: Mapping[str, str | int | float]) -> str | None:
    """On whose features a metrics file says that a metric was measured; None where it does not say."""
    if metric in JUDGES:
        said = protocol.get("second extractor" if metric == "fid_second" else METRICS[metric].printed)
        return None if said is None else str(said).partition(", against ")[0]
    return str(protocol["feature extractor"]) if metric in OF_EXTRACTOR and "feature extractor" in protocol else None


def _copies(sheet: TableSheet, results: Iterable[Result]) -> tuple[str, ...]:
    """A remark where several copies of one feature extractor measured what a table shows: made apart, they are other networks."""
    digests = {"extractor_sha256" for metric in sheet.metrics if metric in OF_EXTRACTOR}
    digests |= {f"{JUDGES[metric]}_extractor_sha256" for metric in sheet.metrics if metric in JUDGES}
    found = [{result["provenance"].get(digest) for result in results} - {None} for digest in sorted(digests)]
    most = max(map(len, found), default=0)
    return (f"Not comparable: {most} copies of one feature extractor measured these rows. Measure them again with one.",) * (
        most > 1
    )


def _group(sheet: TableSheet, metric: str, conditions: Conditions) -> Group:
    extractor = _extractor(metric, conditions)
    published = any(row.published[metric] is not None for row in sheet.rows)
    ours = "used" if sheet.source == "settings" else "counted" if METRICS[metric].counted else "measured"
    return Group(
        metric,
        sheet.printed.get(metric, METRICS[metric].printed),
        extractor,
        published,
        ours,
        change=sheet.compare and metric == "fid",
    )


def _cell(sheet: TableSheet, row: TableRow, metric: str, results: Results, conditions: Conditions) -> Cell:
    published = row.published[metric]
    if row.source == "literature":
        return Cell(published, None, "literature")
    if sheet.source == "settings":
        setting = conditions.settings.get(row.source, {}).get(metric)
        return Cell(published, setting, "missing" if setting is None else "measured")
    result = results.get(row.measured(sheet.source, metric))
    if result is None or metric not in result["values"]:
        return Cell(published, None, "missing")
    seeds = by_seed(result, metric) if sheet.over_seeds else {}
    value = float(result["values"][metric])
    _refuse_unsound(sheet, row, metric, result, [value, *seeds.values()], _extractor(metric, conditions))
    return Cell(
        published, statistics.mean(seeds.values()) if seeds else value, "measured", result, seeds, result.get("planned", 0)
    )


def _refuse_unsound(
    sheet: TableSheet, row: TableRow, metric: str, result: Result, values: Iterable[float], extractor: str | None
) -> None:
    """Raises ValueError on values of another feature extractor, and on values that are not finite."""
    at = f"{sheet.name}: {' '.join(row.measured(sheet.source, metric))} ({result['id']})"
    protocol = result.get("protocol", {})
    used = _used(metric, protocol)
    if extractor is not None and used is not None and used != extractor:
        raise ValueError(f"{at}: {metric} was measured with '{used}', the table is of '{extractor}'; measure it again")
    for value in values:
        if not math.isfinite(value):
            raise ValueError(f"{at}: {metric} is {value}, expected a finite number; measure it again")


def _with_best(sheet: TableSheet, cells: Mapping[str, tuple[Cell, ...]]) -> dict[str, tuple[Cell, ...]]:
    """The cells, the best measured one of each metric in each section marked.

    All that tie as printed are; none is where nothing differs, or where all rows show the same source.
    """
    marked = {key: list(row) for key, row in cells.items()}
    for section in dict.fromkeys(row.section for row in sheet.rows):
        rows = [row for row in sheet.rows if row.section == section]
        for at, metric in enumerate(sheet.metrics):
            sign = {"higher": 1, "lower": -1, None: 0}[METRICS[metric].better]
            found = {row.key: cells[row.key][at] for row in rows if isinstance(cells[row.key][at].measured, float)}
            if not sign or len({row.source for row in rows if row.key in found}) < 2:
                continue
            printed = {key: float(shown(metric, cell).split()[0]) for key, cell in found.items()}
            if len(set(printed.values())) < 2:
                continue
            best = max(sign * value for value in printed.values())
            for key, value in printed.items():
                if sign * value == best:
                    marked[key][at] = replace(marked[key][at], best=True)
    return {key: tuple(row) for key, row in marked.items()}


def _change(sheet: TableSheet, row: TableRow, cells: Mapping[str, tuple[Cell, ...]]) -> Change | None:
    """A row against its baseline: seed by seed where they have seeds in common, else their means."""
    if not sheet.compare or row.baseline is None:
        return None
    fid = sheet.metrics.index("fid")
    ours, baseline = cells[row.key][fid], cells[row.baseline][fid]
    published = _relative(ours.published, baseline.published)
    pairs = [_relative(ours.by_seed[seed], baseline.by_seed[seed]) for seed in ours.by_seed if seed in baseline.by_seed]
    each = [change for change in pairs if change is not None]
    if not each:
        return Change(published, _relative(ours.measured, baseline.measured))
    return Change(published, statistics.mean(each), statistics.stdev(each) if len(each) > 1 else None)


def _relative(value: str | float | None, baseline: str | float | None) -> float | None:
    """Change in percent; None where either is missing or the baseline is 0."""
    if value is None or baseline is None or float(baseline) == 0:
        return None
    return 100 * (float(value) - float(baseline)) / float(baseline)


def _mean(changes: Collection[Change | None]) -> Mean | None:
    """Over the changes that the paper prints, and over those of them that are measured too."""
    compared = [change for change in changes if change is not None and change.published is not None]
    published = [change.published for change in compared if change.published is not None]
    measured = [change.measured for change in compared if change.measured is not None]
    if not published:
        return None
    return Mean(
        published=sum(published) / len(published),
        pairs=len(published),
        measured=sum(measured) / len(measured) if measured else None,
        measured_pairs=len(measured),
    )
