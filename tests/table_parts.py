"""Sheets and results for tests of tables."""

from typing import Any

from conftest import REPOSITORY

from reals.experiment.report_sheets import TableRow, TableSheet, read_tables
from reals.report.tables.conditions import Conditions

CONFIG = REPOSITORY / "config"
SHEETS, _ = read_tables(CONFIG / "tables.yaml", CONFIG / "tables")
EXTRACTOR = "digits-cnn"
COMMON = Conditions(scale="demo", planned={"samples": "1000", "sampler": "SDE, 40 steps"}, extractor=EXTRACTOR)


def result(name, kind="evaluation", **values) -> Any:
    return {
        "kind": kind,
        "name": name,
        "id": f"{name}-0123456789abcdef",
        "values": values,
        "protocol": {"feature extractor": EXTRACTOR},
        "provenance": {"checkpoint": {"step": 400}},
    }


def row(key, source, *, baseline=None, fid=None, note=None, section=None):
    return TableRow(key, section, {"model": f"model {key}"}, source, baseline, {"fid": fid, "is": None}, note)


def sheet(*rows, compare=True, metrics=("fid", "is")):
    return TableSheet("table03", "A title.", {"model": "Model"}, metrics, "evaluation", compare, rows)


def seeded(name, *fids, kind="evaluation", planned=3, first=0):
    """A result that is repeated with a seed for each FID."""
    repeats = [{"seed": k, "id": f"{name}-{k}", "values": {"fid": fid}} for k, fid in enumerate(fids, first)]
    return result(name, kind, fid=fids[0]) | {"planned": planned, "repeats": repeats}


PAIR = sheet(
    row("a", "run-a", fid="40.0", note="a note"),
    row("b", "run-b", baseline="a", fid="30.0", note="another"),
    row("c", "run-c", baseline="a", note="a note"),
    row("paper", "literature", fid="1.5"),
)
