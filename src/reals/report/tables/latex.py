"""A table as a LaTeX float for booktabs, adjustbox and xcolor, with published figures in grey."""

from reals.experiment.spelling import LITERATURE_MARK, tex
from reals.report.tables.model import Row, Table
from reals.report.tables.wording import Printed, caveat, legend, mean_sentence, printed
from reals.report.template import environment


def latex(table: Table) -> str:
    """Source of a ``table*``; ValueError on a character that pdflatex would not know."""
    templates = environment("reals.report.tables").overlay(
        variable_start_string="<<", variable_end_string=">>", block_start_string="<%", block_end_string="%>"
    )
    templates.filters["tex"] = tex
    over, rules, below = _header(table)
    return templates.get_template("table.tex.j2").render(
        table=table,
        figures=len(below) - len(table.columns),
        over=over,
        rules=rules,
        below=below,
        sections=[(section, [_line(table, row) for row in rows]) for section, rows in table.sections],
        caveat=caveat(table.conditions),
        mean=mean_sentence(table),
        legend=legend(table),
    )


def _header(table: Table) -> tuple[list[str], list[str], list[str]]:
    """Titles over several columns, the rules under each of them, and the columns' own titles."""
    over, rules, below = [""] * len(table.columns), [], [tex(column) for column in table.columns]
    for heading in table.headings:
        first = len(below) + 1
        below += [_grey(column) if column == "published" else tex(column) for column in heading.columns]
        over.append(rf"\multicolumn{{{len(heading.columns)}}}{{c}}{{{tex(heading.title)}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{len(below)}}}")
    return over, rules, below


def _line(table: Table, row: Row) -> list[str]:
    marks = (LITERATURE_MARK if row.literature else "") + (str(row.note) if row.note else "")
    labels = [tex(label) for label in row.labels]
    labels[0] += rf"\textsuperscript{{{tex(marks)}}}" if marks else ""
    return labels + [_cell(cell) for cell in printed(table, row)]


def _cell(cell: Printed) -> str:
    if cell.published:
        return _grey(cell.text)
    return rf"\textbf{{{tex(cell.text)}}}" if cell.best else tex(cell.text)


def _grey(text: str) -> str:
    return rf"\textcolor{{gray}}{{{tex(text)}}}" if text else ""
