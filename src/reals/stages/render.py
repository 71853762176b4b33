"""Stage `render`: tables, figures and the report, from metrics files alone; nothing here loads a network."""

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from reals import files, journal
from reals.config import repeats
from reals.registry import Artefact, Registry
from reals.report import figures, page, tables

CAPTIONS = {
    "figure1": "t-SNE of averaged latents, one colour a class, and the similarity of one token (marked) to all others.",
    "figure2": "The pipeline: the rules of the workflow, as Snakemake knows them.",
    "figure3": "Samples ({evaluation}); classes in order, first seeds, nothing picked.",
    "figure4": "Masks and depth read from generated latents through the align network ({target}).",
    "figure5": "KL weight against FID; the size of a point is the standard deviation of the latents.",
    "curves": "Training losses of the autoencoders and transformers behind the tables.",
}


class Missing(ValueError):
    """What a figure is drawn from does not exist yet."""


def load_results(registry: Registry) -> dict[tuple[str, str], dict | None]:
    """(kind, name of the row) -> metrics file, or None while there is none.

    The result of a row that its sheet repeats with several seeds has ``repeats``: ``seed``, ``id`` and ``values`` of each that
    is measured, itself first.
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


def _protocol(registry: Registry) -> dict[str, str]:
    scale, seeds = registry.experiment.scale, registry.experiment.scale.seeds
    steps = ", ".join(f"{name} = {n:,}" if name != str(n) else name for name, n in scale.milestones.items())
    return {
        "data": f"{scale.data.name}, {scale.data.resolution}x{scale.data.resolution} ({scale.description})",
        "transformer steps": f"{steps}, batch {scale.transformer.batch}",
        "samples": f"{scale.sampling.samples:,}, {scale.sampling.labels} labels",
        "sampler": f"{scale.sampling.steps} steps (SiT: SDE Euler-Maruyama; DiT: respaced DDPM)",
        "feature network": scale.evaluation.extractor.name,
        "reference": Path(scale.evaluation.reference).name if scale.evaluation.reference else "all training images; "
        f"precision and recall against {scale.evaluation.pr_reference:,} of them",
        "LPIPS": f"{scale.autoencoder.lpips.net}, {scale.autoencoder.lpips.backbone} backbone",
        "seeds": ", ".join(f"{k} {v}" for k, v in seeds.model_dump().items()),
    }  # fmt: skip


def _facts(registry: Registry) -> dict:
    scale = registry.experiment.scale
    return {
        "scale": scale.name,
        "protocol": _protocol(registry),
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


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        raise Missing(f"{path}: no such file")
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def _maps(registry: Registry, figure: str) -> dict[str, np.ndarray]:
    artefact: Artefact = registry.downstream[getattr(registry.experiment.figures, figure)["evaluation"]]
    return _arrays(registry.folder(artefact) / "maps.npz")


def _figure1(registry: Registry, stem: Path, results: dict) -> None:
    latents = {}
    for name in registry.experiment.figures.figure1["autoencoders"]:
        arrays = _arrays(registry.folder(registry.analyses[name]) / "latents.npz")
        latents[name] = figures.Latents(**arrays)
    figures.figure1(latents, stem)


def _figure2(registry: Registry, stem: Path, results: dict) -> None:
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--rulegraph",
        "dot",
        "--forceall",
        "--nolock",
        "--quiet",
        "all",
        "--config",
        *registry.experiment.overrides,
    ]
    drawn = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if "digraph" not in drawn.stdout:
        raise Missing(f"`{shlex.join(command)}` printed no graph: {drawn.stderr.strip().splitlines()[-1:]}")
    figures.figure2(drawn.stdout[drawn.stdout.index("digraph") :], stem)


def _figure3(registry: Registry, stem: Path, results: dict) -> None:
    figures.figure3(_maps(registry, "figure3")["images"], stem)


def _figure4(registry: Registry, stem: Path, results: dict) -> None:
    arrays = _maps(registry, "figure4")
    figures.figure4(arrays["images"], stem, mask=arrays.get("mask"), classes=arrays.get("classes"), depth=arrays.get("depth"))


def _figure5(registry: Registry, stem: Path, results: dict) -> None:
    experiment, points = registry.experiment, []
    for name in experiment.figures.figure5["evaluations"]:
        autoencoder = experiment.runs[experiment.evaluations[name].run].autoencoder
        measured, analysed = results["evaluation", name], results["autoencoder", autoencoder]
        points.append(
            figures.WeightPoint(
                experiment.autoencoders[autoencoder].lambda_k,
                measured and measured["values"]["fid"],
                analysed and analysed["values"]["latent_std"],
            )
        )
    if all(p.fid is None for p in points):
        raise Missing("no point of Figure 5 is measured")
    figures.figure5(points, stem, fid=tables.metric_name("fid", experiment.scale.evaluation.extractor.name))


def _curves(registry: Registry, stem: Path, results: dict) -> None:
    """Loss curves: one panel for the autoencoders' reconstruction, one per transformer family."""
    experiment = registry.experiment
    panels: dict[str, dict[str, figures.Curve]] = {}
    for name in registry.autoencoders:
        result = results["autoencoder", name]
        if result and result["curve"].get("mse"):
            panels.setdefault("autoencoder MSE", {})[result["name"]] = figures.Curve(
                result["curve"]["step"], result["curve"]["mse"]
            )
    longest: dict[str, dict] = {}
    for name, row in experiment.evaluations.items():
        result = results["evaluation", name]
        if result and result["curve"] and len(result["curve"]["step"]) >= 2:
            steps = result["curve"]["step"][-1]
            if row.run not in longest or steps > longest[row.run]["step"][-1]:
                longest[row.run] = result["curve"]
    for run, curve in longest.items():
        row = experiment.runs[run]
        panel = "DiT loss" if row.family == "DiT" else "SiT velocity loss"
        panels.setdefault(panel, {})[run] = figures.Curve(curve["step"], curve["mse" if row.family == "DiT" else "velocity"])
    if not panels:
        raise Missing("no training curve exists")
    figures.curves(panels, stem)


FIGURES = {
    "figure1": _figure1,
    "figure2": _figure2,
    "figure3": _figure3,
    "figure4": _figure4,
    "figure5": _figure5,
    "curves": _curves,
}


def tables_only(registry: Registry) -> None:
    _render_tables(registry, load_results(registry))


def figure(registry: Registry, name: str) -> None:
    if name not in FIGURES:
        raise ValueError(f"figure '{name}' is not defined; known: {', '.join(FIGURES)}")
    FIGURES[name](registry, registry.root / "figures" / name, load_results(registry))


def report(registry: Registry) -> None:
    results, scale = load_results(registry), registry.experiment.scale
    pictures = []
    for name, caption in CAPTIONS.items():
        png = registry.root / "figures" / f"{name}.png"
        result = results.get(("downstream", registry.experiment.figures.figure4["evaluation"]))
        target = result["protocol"]["target"] if result else "not made yet"
        text = caption.format(evaluation=registry.experiment.figures.figure3["evaluation"], target=target)
        pictures.append(page.Picture(name, text, png if png.exists() else None))
    rows = journal.by_stage(journal.read(registry.root / "journal.jsonl"))
    times = [page.StageTime(r["stage"], r["jobs"], r["wall"], r["cpu"]) for r in rows]
    page.render(
        registry.root / "report.html", scale=scale.name, description=scale.description, paper=scale.paper,
        protocol=_protocol(registry), code_version=files.code_version(), tables=_build(registry, results),
        pictures=pictures, results=results, times=times,
    )  # fmt: skip


def render(registry: Registry) -> None:
    """Everything that can be drawn from what exists; says what is missing and never starts work."""
    results = load_results(registry)
    _render_tables(registry, results)
    for name, draw in FIGURES.items():
        try:
            draw(registry, registry.root / "figures" / name, results)
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
