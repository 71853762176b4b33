"""A table as CSV: plain numbers in full precision, for programs."""

import csv
import io

from reals.report.tables.model import Change, Row, Table
from reals.report.tables.wording import caveat, mean_sentence


def comma_separated(table: Table) -> str:
    """One line per row, empty where there is no number, after `#` lines that say what it is."""
    text = io.StringIO()
    text.writelines(f"# {line}\n" for line in _comments(table))
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_header(table))
    writer.writerows(_line(table, row) for row in table.rows)
    return text.getvalue()


def _comments(table: Table) -> list[str]:
    comments = [f"{table.number}. {table.title}", _scale(table)]
    comments += [f"{name}: {value}" for name, value in table.protocol.items()]
    comments += [said] if (said := caveat(table.conditions)) else []
    comments += [
        f"{group.metric}: {group.name}" + (f", on features of {group.extractor}" if group.extractor else "")
        for group in table.groups
    ]
    return comments + ([said] if (said := mean_sentence(table)) else [])


def _scale(table: Table) -> str:
    described = table.conditions.description
    return f"scale: {table.conditions.scale}" + (f" ({described})" if described else "")


def _header(table: Table) -> list[str]:
    header = ["key", "section", *table.label_names, "source", "id"]
    for group in table.groups:
        header += [f"{group.metric}_published"] * group.published + [f"{group.metric}_measured"]
        header += [f"{group.metric}_std", f"{group.metric}_seeds"] * table.repeated
    if table.compare:
        header += ["fid_change_published_percent"] * table.published + ["fid_change_measured_percent"]
        header += ["fid_change_std_percent"] * table.repeated
    return [*header, "note"]


def _line(table: Table, row: Row) -> list[str | float | None]:
    """csv.writer leaves the place of None empty."""
    result = next((cell.provenance for cell in row.cells if cell.provenance is not None), None)
    line: list[str | float | None] = [row.key, row.section, *row.labels, row.source, result["id"] if result else None]
    for group, cell in zip(table.groups, row.cells, strict=True):
        line += [cell.published] * group.published + [cell.measured]
        line += [cell.deviation, len(cell.by_seed) or None] * table.repeated
    if table.compare:
        change = row.change or Change(None, None)
        line += [change.published] * table.published + [change.measured]
        line += [change.deviation] * table.repeated
    return [*line, table.notes[row.note - 1] if row.note else None]
