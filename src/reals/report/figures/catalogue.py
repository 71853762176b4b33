"""Each figure by its name: gathers what it shows, from the results and the arrays beside them, and has it drawn."""

import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from reals.experiment import figure_table
from reals.experiment.artefact import Artefact
from reals.experiment.metric_table import metric_name
from reals.experiment.registry import Registry
from reals.records import journal
from reals.report.figures import image_grids, latent_spaces, plots, rule_graph
from reals.report.results import Result, Results, values

SCORES = {"silhouette": "silhouette", "knn": "k-NN", "linear_probe": "probe"}


class Missing(ValueError):
    """What a figure is drawn from does not exist yet."""


def _arrays(registry: Registry, artefact: Artefact) -> dict[str, np.ndarray]:
    """What an artefact holds beside its numbers: the second of its outputs."""
    path = registry.outputs(artefact)[1]
    if not path.exists():
        raise Missing(f"{path}: no such file")
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


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
    spaces = {name: latent_spaces.Latents(**_arrays(registry, registry.analyses[name])) for name in names}
    scores = {}
    for name in names:
        result = results["autoencoder", name]
        measured = {} if result is None else result["values"]
        scores[name] = {short: measured[metric] for metric, short in SCORES.items() if metric in measured}
    latent_spaces.draw(spaces, stem, scores=scores)


def _figure2(registry: Registry, stem: Path, results: Results) -> None:
    snakemake = [sys.executable, "-m", "snakemake", "--rulegraph", "dot", "--forceall", "--nolock", "--quiet", "all"]
    command = [*snakemake, "--config", *registry.experiment.overrides]
    drawing = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if "digraph" not in drawing.stdout:
        raise Missing(f"`{shlex.join(command)}` printed no graph: {drawing.stderr.strip().splitlines()[-1:]}")
    rule_graph.draw(drawing.stdout[drawing.stdout.index("digraph") :], stem)


def _figure3(registry: Registry, stem: Path, results: Results) -> None:
    (artefact,) = figure_table.figures(registry)["figure3"]
    image_grids.samples(_arrays(registry, artefact)["images"], stem)


def _figure4(registry: Registry, stem: Path, results: Results) -> None:
    (artefact,) = figure_table.figures(registry)["figure4"]
    arrays = _arrays(registry, artefact)
    image_grids.read_from_latents(
        arrays["images"], stem, mask=arrays.get("mask"), classes=arrays.get("classes"), depth=arrays.get("depth")
    )


def _figure5(registry: Registry, stem: Path, results: Results) -> None:
    experiment, points = registry.experiment, []
    over_seeds = figure_table.sweep_over_seeds(experiment)
    for name in experiment.figures.figure5["evaluations"]:
        autoencoder = experiment.runs[experiment.evaluations[name].run].autoencoder
        analysed = results["autoencoder", autoencoder]
        weight = experiment.autoencoders[autoencoder].lambda_k
        assert weight is not None, "checked when the sheets are loaded"
        points.append(
            plots.WeightPoint(
                weight,
                values(results["evaluation", name], "fid", over_seeds),
                None if analysed is None else analysed["values"].get("latent_std"),
            )
        )
    if not any(p.fids for p in points):
        raise Missing("no point of Figure 5 is measured")
    plots.fid_over_kl_weights(points, stem, fid=_metric(registry, "fid"))


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
        label: _arrays(registry, registry.evaluations[name])["images"]
        for name, label in _told_apart(labels, between="\n").items()
    }
    image_grids.rows_of_images(rows, stem)


def _reconstructions(registry: Registry, stem: Path, results: Results) -> None:
    rows: dict[str, np.ndarray] = {}
    for name in registry.experiment.figures.reconstructions["autoencoders"]:
        if results["autoencoder", name] is not None:
            arrays = _arrays(registry, registry.analyses[name])
            rows.setdefault("image", arrays["images"])
            if not np.array_equal(rows["image"], arrays["images"]):
                raise ValueError(f"reconstructions: '{name}' shows other images; redo its analysis")
            rows[name] = arrays["reconstructions"]
    if not rows:
        raise Missing("no autoencoder of the sheet is analysed")
    image_grids.rows_of_images(rows, stem, columns=8)


def _fid_over_steps(registry: Registry, stem: Path, results: Results) -> None:
    experiment, lines = registry.experiment, {}
    for run, names in figure_table.along_training(experiment).items():
        points = [
            plots.Milestone(experiment.scale.milestones[experiment.evaluations[name].milestone], fids)
            for name in names
            if (fids := values(results["evaluation", name], "fid"))
        ]
        if points:
            lines[run] = sorted(points, key=lambda p: p.step)
    if not lines:
        raise Missing("no evaluation along a training is measured")
    labels = _told_apart({run: _run_label(registry, run) for run in lines})
    plots.fid_over_steps({labels[run]: line for run, line in lines.items()}, stem, fid=_metric(registry, "fid"))


def _guidance(registry: Registry, stem: Path, results: Results) -> None:
    experiment, lines = registry.experiment, {}
    for (run, milestone), names in figure_table.along_guidance(experiment).items():
        points = []
        for name in names:
            row, result = experiment.evaluations[name], results["evaluation", name]
            if (fids := values(result, "fid")) and (recalls := values(result, "recall")):
                points.append(plots.Guided(row.cfg, row.interval is not None, fids, recalls))
        if points:
            lines[run, milestone] = points
    if not lines:
        raise Missing("no evaluation with guidance is measured")
    labels = _told_apart({run: _run_label(registry, run) for run, _ in lines})
    named = {f"{labels[run]}, {milestone}": line for (run, milestone), line in lines.items()}
    plots.guidance(named, stem, fid=_metric(registry, "fid"), recall=_metric(registry, "recall"))


def _curves(registry: Registry, stem: Path, results: Results) -> None:
    """Loss curves: one panel for the autoencoders' reconstruction, one per transformer family; repeats are left out."""
    experiment = registry.experiment
    panels: dict[str, dict[str, plots.Curve]] = {}
    for name in registry.autoencoders:
        result = results["autoencoder", name]
        curve = _curve(result)
        if experiment.autoencoders[name].repeat_of is None and result and curve.get("mse"):
            panels.setdefault("autoencoder MSE", {})[result["name"]] = plots.Curve(curve["step"], curve["mse"])
    for run, longest in _longest_curves(registry, results).items():
        dit = experiment.runs[run].family == "DiT"
        lines = panels.setdefault("DiT loss" if dit else "SiT velocity loss", {})
        lines[run] = plots.Curve(longest["step"], longest["mse" if dit else "velocity"])
    if not panels:
        raise Missing("no training curve exists")
    plots.curves(panels, stem)


def _curve(result: Result | None) -> dict[str, list[float]]:
    """The log of the training behind a result; empty where there is none."""
    return (None if result is None else result.get("curve")) or {}


def _longest_curves(registry: Registry, results: Results) -> dict[str, dict[str, list[float]]]:
    """Run -> the log of its training behind the evaluation that was measured at the latest step."""
    longest: dict[str, dict[str, list[float]]] = {}
    for name, row in registry.experiment.evaluations.items():
        curve = _curve(results["evaluation", name])
        if row.repeat_of is None and len(curve.get("step", [])) >= 2:
            if row.run not in longest or curve["step"][-1] > longest[row.run]["step"][-1]:
                longest[row.run] = curve
    return longest


def _cost(registry: Registry, stem: Path, results: Results) -> None:
    rows = journal.by_stage(journal.read(registry.root / "journal.jsonl"))
    stages = {row["stage"]: (row["wall"], row["cpu"]) for row in rows if row["stage"] != "render"}
    if not stages:
        raise Missing(f"{registry.root}/journal.jsonl records no job")
    plots.cost(stages, stem)


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
