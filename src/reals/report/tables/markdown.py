"""A table as a page of Markdown; columns are padded so that the raw text reads too."""

import re

from reals.experiment.spelling import LITERATURE_MARK
from reals.report.tables.model import Row, Table
from reals.report.tables.wording import Printed, caveat, legend, mean_sentence, printed
from reals.report.template import environment

SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def markdown(table: Table) -> str:
    templates = environment("reals.report.tables")
    templates.filters |= {"escape_markdown": escape, "superscript": superscript}
    return templates.get_template("table.md.j2").render(
        table=table, grid=_grid(table), caveat=caveat(table.conditions), mean=mean_sentence(table), legend=legend(table)
    )


def escape(text: str) -> str:
    return re.sub(r"([|*_\\])", r"\\\1", text)


def superscript(number: int) -> str:
    return str(number).translate(SUPERSCRIPTS)


def _grid(table: Table) -> list[list[str]]:
    """Header, rule and body, padded to equal widths: labels to the left, numbers to the right."""
    header, body = _header(table), []
    for k, (section, rows) in enumerate(table.sections):
        if section or k:
            body.append([f"**{escape(section or '')}**", *[""] * (len(header) - 1)])
        body += [[escape(label) for label in _labels(row)] + [_cell(cell) for cell in printed(table, row)] for row in rows]
    widths = [max(3, *(len(line[i]) for line in [header, *body])) for i in range(len(header))]
    left = len(table.columns)
    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return [
        [text.ljust(w) if i < left else text.rjust(w) for i, (text, w) in enumerate(zip(line, widths, strict=True))]
        for line in (header, rule, *body)
    ]


def _header(table: Table) -> list[str]:
    """Markdown has one line for it, so what the other formats print below each other stands in a row here."""
    return [*table.columns, *(f"{heading.title} {column}" for heading in table.headings for column in heading.columns)]


def _labels(row: Row) -> list[str]:
    mark = (LITERATURE_MARK if row.literature else "") + (superscript(row.note) if row.note else "")
    return [row.labels[0] + mark, *row.labels[1:]]


def _cell(cell: Printed) -> str:
    return f"**{cell.text}**" if cell.best else cell.text
