"""All sheets of an experiment: where each is found, and what they say together, a row for each further seed included."""

from dataclasses import dataclass, replace
from pathlib import Path

from reals.experiment.claim_sheet import ClaimSheet
from reals.experiment.reading import ConfigError, read, unknown
from reals.experiment.repeats import repeat_autoencoders, repeat_evaluations, repeat_runs
from reals.experiment.report_sheets import FigureSheet, TableRow, TableSheet, read_tables
from reals.experiment.rows import AutoencoderRow, EvaluationRow, RunRow, Sheet, read_rows

SHEETS = ("autoencoders.tsv", "runs.tsv", "evaluations.tsv", "tables.yaml", "tables", "figures.yaml", "claim.yaml")


@dataclass(frozen=True)
class Sheets:
    """What the sheets say; ``files`` is where each of `SHEETS` is, ``table_rows`` "file line n" of each (table, key)."""

    files: dict[str, Path]
    autoencoders: Sheet[AutoencoderRow]
    runs: Sheet[RunRow]
    evaluations: Sheet[EvaluationRow]
    tables: dict[str, TableSheet]
    table_rows: dict[tuple[str, str], str]
    figures: FigureSheet
    claim: ClaimSheet | None


def read_sheets(folder: Path, own: str | None, scale: Path) -> Sheets:
    """The sheets in ``folder``, or in their place those of its ``sheets/<own>``, which the scale file ``scale`` names.

    ConfigError (one line) for what is wrong within a sheet; what must hold between them is checked by `checks.check`.
    """
    files = _sheet_files(folder, own, scale)
    autoencoders = read_rows(AutoencoderRow, files["autoencoders.tsv"])
    runs = read_rows(RunRow, files["runs.tsv"])
    evaluations = read_rows(EvaluationRow, files["evaluations.tsv"])
    claim = files["claim.yaml"]
    tables, table_rows = read_tables(files["tables.yaml"], files["tables"])
    tables = {name: _with_autoencoders(table, evaluations, runs) for name, table in tables.items()}
    return Sheets(
        files,
        repeat_autoencoders(autoencoders),
        repeat_runs(runs, autoencoders),
        repeat_evaluations(evaluations, runs),
        tables,
        table_rows,
        read(FigureSheet, files["figures.yaml"]),
        read(ClaimSheet, claim) if claim.exists() else None,
    )


def _with_autoencoders(table: TableSheet, evaluations: Sheet[EvaluationRow], runs: Sheet[RunRow]) -> TableSheet:
    """The table, its rows of evaluations knowing whose latents they are of; names that are not there are `checks`' to refuse."""

    def autoencoder(row: TableRow) -> str | None:
        evaluation = evaluations.rows.get(row.source) if table.source == "evaluation" else None
        run = runs.rows.get(evaluation.run) if evaluation is not None else None
        return None if run is None else run.autoencoder

    return replace(table, rows=tuple(replace(row, autoencoder=autoencoder(row)) for row in table.rows))


def _sheet_files(folder: Path, own: str | None, scale: Path) -> dict[str, Path]:
    """Where each of SHEETS is: among the scale's own sheets, else in ``folder``; the claim, beside the evaluations that it names."""
    if own is None:
        return {name: folder / name for name in SHEETS}
    place = folder / "sheets" / own
    found = sorted(path.name for path in place.glob("*"))
    if not found:
        known = sorted(path.name for path in (folder / "sheets").glob("*"))
        raise ConfigError(f"{scale}: sheets: {unknown(own, known, f'folder of {place.parent}')}")
    for name in found:
        if name not in SHEETS:
            raise ConfigError(f"{place / name}: {unknown(name, SHEETS, 'sheet')}")
    files = {name: (place if name in found else folder) / name for name in SHEETS}
    return files | {"claim.yaml": files["evaluations.tsv"].with_name("claim.yaml")}
