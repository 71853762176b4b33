"""Stage `render`: tables, figures and the report, from metrics files alone; nothing here loads a network."""

import shlex

import pandas as pd

from reals import files
from reals.experiment import figure_list
from reals.experiment.registry import Registry
from reals.experiment.repeats import repeats
from reals.records import journal, provenance
from reals.report import page, tables
from reals.report.drawing import FIGURES, Missing


def load_results(registry: Registry) -> dict[tuple[str, str], dict | None]:
    """(kind, name of the row) -> metrics file, or None while there is none.

    The result of a row that its sheet repeats with several seeds has ``repeats``: ``seed``, ``id`` and ``values`` of each that
    is measured, itself first; and ``planned``, how many seeds the sheet asks for.
    """
    experiment = registry.experiment
    results: dict[tuple[str, str], dict | None] = {}
    for kind, artefacts, rows in (
        ("evaluation", registry.evaluations, experiment.evaluations),
        ("autoencoder", registry.analyses, experiment.autoencoders),
        ("downstream", registry.downstream, {}),
    ):
        for name, artefact in artefacts.items():
            path = registry.folder(artefact) / "metrics.json"
            results[kind, name] = files.read_json(path) if path.exists() else None
        for name in artefacts:
            of_seeds = {seed: results[kind, other] for seed, other in repeats(rows, name).items()}
            if of_seeds and results[kind, name] is not None:
                results[kind, name]["planned"] = len(of_seeds)
                results[kind, name]["repeats"] = [
                    {"seed": seed, "id": r["id"], "values": r["values"]} for seed, r in of_seeds.items() if r is not None
                ]
    return results


def _settings(registry: Registry) -> dict[str, dict[str, str]]:
    """What Table 1 prints as used, read from the resolved specs."""
    scale = registry.experiment.scale
    images = scale.data.expected_images
    data = registry.folder(registry.data) / files.MANIFEST
    if data.exists():
        images = files.read_json(data)["images"]["train"]
    a, t = scale.autoencoder, scale.transformer

    def epochs(steps: int, batch: int) -> str:
        return f"{steps * batch / images:.3g}" if images else f"{steps} steps"

    return {
        "autoencoder": {"optimizer": "AdamW", "lr": f"{a.lr:g}", "schedule": "Cosine", "min_lr": "0.0", "batch": str(a.batch),
                        "epochs": epochs(a.steps, a.batch)},
        "transformer": {"optimizer": "AdamW", "lr": f"{t.lr:g}", "schedule": "-", "min_lr": "-", "batch": str(t.batch), "epochs": "-"},
    }  # fmt: skip


def _facts(registry: Registry) -> dict:
    scale = registry.experiment.scale
    return {
        "scale": scale.name,
        "protocol": figure_list.protocol(registry),
        "network": scale.evaluation.extractor.name,
        "settings": _settings(registry),
        "paper": scale.paper,
    }


def _build(registry: Registry, results: dict) -> list[tables.Table]:
    return [tables.build(sheet, results, **_facts(registry)) for sheet in registry.experiment.tables.values()]


def _flat_metrics(results: dict) -> dict:
    """Every number by kind and name: the one file that diffs and plots read."""
    flat: dict[str, dict] = {}
    for (kind, name), result in results.items():
        if result is not None:
            flat.setdefault(kind, {})[name] = {"id": result["id"], **result["values"]}
    return flat


EVALUATION_COLUMNS = ("evaluation", "run", "model", "autoencoder", "steps", "cfg", "interval", "samples")


def _evaluations(registry: Registry, results: dict) -> str:
    """Every measured evaluation as a line of CSV: what was drawn, then its values. DVC plots it."""
    experiment, rows = registry.experiment, []
    for name, row in experiment.evaluations.items():
        if (result := results["evaluation", name]) is not None:
            run, spec = experiment.runs[row.run], registry.samples[name].spec
            interval = "-".join(map(str, row.interval)) if row.interval else ""
            what = (name, row.run, run.model, run.autoencoder, spec["step"], row.cfg, interval, spec["n"])
            rows.append(dict(zip(EVALUATION_COLUMNS, what, strict=True)) | result["values"])
    return pd.DataFrame(rows, columns=None if rows else list(EVALUATION_COLUMNS)).to_csv(index=False)


def _render_tables(registry: Registry, results: dict) -> None:
    for sheet in registry.experiment.tables.values():
        tables.render(sheet, results, **_facts(registry), folder=registry.root / "tables")
    files.write_json(registry.root / "metrics.json", _flat_metrics(results))
    files.write_text(registry.root / "evaluations.csv", _evaluations(registry, results))


def tables_only(registry: Registry) -> None:
    _render_tables(registry, load_results(registry))


def figure(registry: Registry, name: str) -> None:
    known = figure_list.figures(registry)
    if name not in known:
        raise ValueError(f"figure '{name}' is not defined at scale {registry.experiment.scale.name}; known: {', '.join(known)}")
    FIGURES[name](registry, registry.root / "figures" / name, load_results(registry))


def report(registry: Registry) -> None:
    results, scale = load_results(registry), registry.experiment.scale
    pictures = []
    for name in figure_list.figures(registry):
        png = registry.root / "figures" / f"{name}.png"
        pictures.append(
            page.Picture(figure_list.title(name), figure_list.caption(registry.experiment, name), png if png.exists() else None)
        )
    rows = journal.by_stage(journal.read(registry.root / "journal.jsonl"))
    times = [page.StageTime(r["stage"], r["jobs"], r["wall"], r["cpu"]) for r in rows]
    kinds = {"evaluation": registry.evaluations, "autoencoder": registry.analyses, "downstream": registry.downstream}
    commands = {
        (kind, name): provenance.remake(registry, registry.outputs(kinds[kind][name])[0])
        for (kind, name), result in results.items()
        if result is not None
    }
    page.render(
        registry.root / "report.html", scale=scale.name, description=scale.description, paper=scale.paper,
        protocol=figure_list.protocol(registry), code_version=files.code_version(), tables=_build(registry, results),
        pictures=pictures, results=results, commands=commands, overrides=shlex.join(registry.experiment.overrides), times=times,
    )  # fmt: skip


def render(registry: Registry) -> None:
    """Everything that can be drawn from what exists; says what is missing and never starts work."""
    results = load_results(registry)
    _render_tables(registry, results)
    for name in figure_list.figures(registry):
        try:
            FIGURES[name](registry, registry.root / "figures" / name, results)
        except Missing as error:
            print(f"{name}: left as it was ({error})", flush=True)
    report(registry)
    shown = [("evaluation", n) for n in registry.experiment.table_evaluations]
    shown += [("autoencoder", n) for n in registry.experiment.analysed_autoencoders]
    missing = [name for kind, name in shown if results[kind, name] is None]
    print(
        f"{registry.root}/report.html: {len(shown) - len(missing)} of {len(shown)} results measured"
        + (f"; missing: {', '.join(missing)}" if missing else "")
    )
