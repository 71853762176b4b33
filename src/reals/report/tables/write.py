"""Writes a table in every format."""

from pathlib import Path

from reals.files import write_text
from reals.report.tables.comma_separated import comma_separated
from reals.report.tables.latex import latex
from reals.report.tables.markdown import markdown
from reals.report.tables.model import Table

FORMATS = {"md": markdown, "csv": comma_separated, "tex": latex}


def write(table: Table, folder: Path) -> list[Path]:
    """The paths of ``folder/<name>.md``, ``.csv`` and ``.tex``, each written atomically."""
    paths = []
    for suffix, text_of in FORMATS.items():
        paths.append(folder / f"{table.name}.{suffix}")
        write_text(paths[-1], text_of(table))
    return paths
