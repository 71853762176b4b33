"""Every measured number in one file, for programs that compare and plot: metrics.json, and evaluations.csv for DVC."""

from pathlib import Path

import pandas as pd

from reals import files
from reals.experiment.registry import Registry
from reals.report.results import Results

EVALUATION_COLUMNS = ("evaluation", "run", "model", "autoencoder", "steps", "cfg", "interval", "samples")


def write(registry: Registry, results: Results, folder: Path) -> None:
    """Writes ``metrics.json`` and ``evaluations.csv`` into a folder."""
    files.write_json(folder / "metrics.json", metrics(results))
    files.write_text(folder / "evaluations.csv", evaluations(registry, results))


def metrics(results: Results) -> dict[str, dict[str, dict[str, str | float]]]:
    """Kind -> name -> the result's id and values."""
    flat: dict[str, dict[str, dict[str, str | float]]] = {}
    for (kind, name), result in results.items():
        if result is not None:
            flat.setdefault(kind, {})[name] = {"id": result["id"], **result["values"]}
    return flat


def evaluations(registry: Registry, results: Results) -> str:
    """Every measured evaluation as a line of CSV: what was drawn, then its values."""
    experiment = registry.experiment
    rows: list[dict[str, object]] = []
    for name, row in experiment.evaluations.items():
        if (result := results["evaluation", name]) is not None:
            run, spec = experiment.runs[row.run], registry.samples[name].spec
            interval = "-".join(map(str, row.interval)) if row.interval else ""
            what = (name, row.run, run.model, run.autoencoder, spec.step, row.cfg, interval, spec.n)
            rows.append(dict(zip(EVALUATION_COLUMNS, what, strict=True)) | result["values"])
    text: str = pd.DataFrame(rows, columns=None if rows else list(EVALUATION_COLUMNS)).to_csv(index=False)
    return text
