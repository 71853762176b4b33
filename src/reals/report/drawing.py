"""Stage `figure`: each figure drawn from metrics files and the arrays beside them."""

import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from reals.experiment import figure_list
from reals.experiment.metric_table import metric_name
from reals.experiment.registry import Artefact, Registry
from reals.records import journal
from reals.report import figures, tables

Results = Mapping[tuple[str, str], dict | None]

SCORES = {"silhouette": "silhouette", "knn": "k-NN", "linear_probe": "probe"}


class Missing(ValueError):
    """What a figure is drawn from does not exist yet."""


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        raise Missing(f"{path}: no such file")
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def _of(registry: Registry, artefact: Artefact) -> dict[str, np.ndarray]:
    """An artefact's arrays, the second of its outputs."""
    return _arrays(registry.outputs(artefact)[1])


def _values(result: dict | None, metric: str, over_seeds: bool = True) -> list[float]:
    """A metric of a row with each seed that is measured; one value where it has no repeats or they are not asked for, none
    while it is not measured."""
    if result is None:
        return []
    return list(tables.of_seeds(result, metric).values() if over_seeds else ()) or [result["values"][metric]]


def _metric(registry: Registry, metric: str) -> str:
    return metric_name(metric, registry.experiment.scale.evaluation.extractor.name)


def _run_label(registry: Registry, run: str) -> str:
    row = registry.experiment.runs[run]
    return f"{row.model}{' + REPA' * row.repa}, {_autoencoder(registry, run)}"


def _autoencoder(registry: Registry, run: str) -> str:
    """A run's autoencoder as its sheet calls it, whichever repeat of it this run stands on."""
    name = registry.experiment.runs[run].autoencoder
    return registry.experiment.autoencoders[name].repeat_of or name


def _told_apart(labels: Mapping[str, str], between: str = ", ") -> dict[str, str]:
    """Row -> label, with the row's name behind a label that several have: rows can differ in what no label says."""
    having = Counter(labels.values())
    return {name: label if having[label] == 1 else f"{label}{between}{name}" for name, label in labels.items()}


def _figure1(registry: Registry, stem: Path, results: Results) -> None:
    names = registry.experiment.figures.figure1["autoencoders"]
    latents = {name: figures.Latents(**_of(registry, registry.analyses[name])) for name in names}
    scores = {}
    for name in names:
        found = (results["autoencoder", name] or {"values": {}})["values"]
        scores[name] = {short: found[metric] for metric, short in SCORES.items() if metric in found}
    figures.figure1(latents, stem, scores=scores)


def _figure2(registry: Registry, stem: Path, results: Results) -> None:
    snakemake = [sys.executable, "-m", "snakemake", "--rulegraph", "dot", "--forceall", "--nolock", "--quiet", "all"]
    command = [*snakemake, "--config", *registry.experiment.overrides]
    drawing = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if "digraph" not in drawing.stdout:
        raise Missing(f"`{shlex.join(command)}` printed no graph: {drawing.stderr.strip().splitlines()[-1:]}")
    figures.figure2(drawing.stdout[drawing.stdout.index("digraph") :], stem)


def _figure3(registry: Registry, stem: Path, results: Results) -> None:
    (artefact,) = figure_list.figures(registry)["figure3"]
    figures.figure3(_of(registry, artefact)["images"], stem)


def _figure4(registry: Registry, stem: Path, results: Results) -> None:
    (artefact,) = figure_list.figures(registry)["figure4"]
    arrays = _of(registry, artefact)
    figures.figure4(arrays["images"], stem, mask=arrays.get("mask"), classes=arrays.get("classes"), depth=arrays.get("depth"))


def _figure5(registry: Registry, stem: Path, results: Results) -> None:
    experiment, points = registry.experiment, []
    over_seeds = figure_list.sweep_over_seeds(experiment)
    for name in experiment.figures.figure5["evaluations"]:
        autoencoder = experiment.runs[experiment.evaluations[name].run].autoencoder
        analysed = results["autoencoder", autoencoder]
        points.append(
            figures.WeightPoint(
                experiment.autoencoders[autoencoder].lambda_k,
                _values(results["evaluation", name], "fid", over_seeds),
                analysed and analysed["values"]["latent_std"],
            )
        )
    if not any(p.fids for p in points):
        raise Missing("no point of Figure 5 is measured")
    figures.figure5(points, stem, fid=_metric(registry, "fid"))


def _checkpoints(registry: Registry, stem: Path, results: Results) -> None:
    experiment, labels = registry.experiment, {}
    for name in experiment.figures.checkpoints["evaluations"]:
        if results["evaluation", name] is None:
            continue
        row = experiment.evaluations[name]
        guidance = "" if row.cfg == 1 else f", {row.cfg:g}" + "*" * (row.interval is not None)
        run = experiment.runs[row.run]
        labels[name] = f"{run.model}{' + REPA' * run.repa}\n{_autoencoder(registry, row.run)}, {row.milestone}{guidance}"
    if not labels:
        raise Missing("no checkpoint of the sheet is measured")
    rows = {
        label: _of(registry, registry.evaluations[name])["images"] for name, label in _told_apart(labels, between="\n").items()
    }
    figures.rows_of_images(rows, stem)


def _reconstructions(registry: Registry, stem: Path, results: Results) -> None:
    rows: dict[str, np.ndarray] = {}
    for name in registry.experiment.figures.reconstructions["autoencoders"]:
        if results["autoencoder", name] is not None:
            arrays = _of(registry, registry.analyses[name])
            rows.setdefault("image", arrays["images"])
            if not np.array_equal(rows["image"], arrays["images"]):
                raise ValueError(f"reconstructions: '{name}' shows other images; redo its analysis")
            rows[name] = arrays["reconstructions"]
    if not rows:
        raise Missing("no autoencoder of the sheet is analysed")
    figures.rows_of_images(rows, stem, columns=8)


def _fid_over_steps(registry: Registry, stem: Path, results: Results) -> None:
    experiment, lines = registry.experiment, {}
    for run, names in figure_list.along_training(experiment).items():
        points = [
            figures.Milestone(experiment.scale.milestones[experiment.evaluations[name].milestone], fids)
            for name in names
            if (fids := _values(results["evaluation", name], "fid"))
        ]
        if points:
            lines[run] = sorted(points, key=lambda p: p.step)
    if not lines:
        raise Missing("no evaluation along a training is measured")
    labels = _told_apart({run: _run_label(registry, run) for run in lines})
    figures.fid_over_steps({labels[run]: line for run, line in lines.items()}, stem, fid=_metric(registry, "fid"))


def _guidance(registry: Registry, stem: Path, results: Results) -> None:
    experiment, lines = registry.experiment, {}
    for (run, milestone), names in figure_list.along_guidance(experiment).items():
        points = []
        for name in names:
            row, result = experiment.evaluations[name], results["evaluation", name]
            if result is not None:
                guided = row.interval is not None
                points.append(figures.Guided(row.cfg, guided, _values(result, "fid"), _values(result, "recall")))
        if points:
            lines[run, milestone] = points
    if not lines:
        raise Missing("no evaluation with guidance is measured")
    labels = _told_apart({run: _run_label(registry, run) for run, _ in lines})
    named = {f"{labels[run]}, {milestone}": line for (run, milestone), line in lines.items()}
    figures.guidance(named, stem, fid=_metric(registry, "fid"), recall=_metric(registry, "recall"))


def _curves(registry: Registry, stem: Path, results: Results) -> None:
    """Loss curves: one panel for the autoencoders' reconstruction, one per transformer family; repeats are left out."""
    experiment = registry.experiment
    panels: dict[str, dict[str, figures.Curve]] = {}
    for name in registry.autoencoders:
        result = results["autoencoder", name]
        if experiment.autoencoders[name].repeat_of is None and result and result["curve"].get("mse"):
            panels.setdefault("autoencoder MSE", {})[result["name"]] = figures.Curve(
                result["curve"]["step"], result["curve"]["mse"]
            )
    longest: dict[str, dict] = {}
    for name, row in experiment.evaluations.items():
        result = results["evaluation", name]
        if row.repeat_of is None and result and result["curve"] and len(result["curve"]["step"]) >= 2:
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


def _cost(registry: Registry, stem: Path, results: Results) -> None:
    rows = journal.by_stage(journal.read(registry.root / "journal.jsonl"))
    stages = {row["stage"]: (row["wall"], row["cpu"]) for row in rows if row["stage"] != "render"}
    if not stages:
        raise Missing(f"{registry.root}/journal.jsonl records no job")
    figures.cost(stages, stem)


FIGURES: dict[str, Callable[[Registry, Path, Results], None]] = {
    "figure1": _figure1,
    "figure2": _figure2,
    "figure3": _figure3,
    "checkpoints": _checkpoints,
    "figure4": _figure4,
    "figure5": _figure5,
    "fid_over_steps": _fid_over_steps,
    "guidance": _guidance,
    "reconstructions": _reconstructions,
    "curves": _curves,
    "cost": _cost,
}
