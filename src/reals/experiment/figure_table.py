"""The figures, one entry each: what they are called, what stands below them, and the results that each is drawn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reals.experiment.artefact import Artefact
from reals.experiment.load import Experiment
from reals.experiment.registry import Registry
from reals.experiment.repeats import repeats
from reals.experiment.rows import EvaluationRow
from reals.experiment.specs import Spec


@dataclass(frozen=True)
class Figure:
    """``caption`` may name {evaluation}, that of Figure 3, {target}, that of the heads of Figure 4, and {tsne}, the images of Figure 1."""

    name: str
    title: str
    caption: str
    drawn_from: Literal["metrics", "arrays", "everything"] = "metrics"  # arrays: beside the metrics; everything that is measured
    optional: bool = False  # left out where the sheets hold nothing for it


FIGURES = (
    Figure(
        "figure1", "Figure 1",
        "t-SNE of {tsne} images, one colour a class, and the similarity of one token (marked) to all others. "
        "Below: silhouette of the classes among these images, and accuracy of k-NN and of a linear probe on averaged latents of "
        "held-out images.", "arrays",
    ),
    Figure("figure2", "Figure 2", "The pipeline: the rules of the workflow, as Snakemake knows them."),
    Figure("figure3", "Figure 3", "Samples ({evaluation}); classes in order, first seeds, nothing picked.", "arrays"),
    Figure(
        "checkpoints", "Samples along training",
        "The first samples of several checkpoints, nothing picked; each column has the same noise and label throughout.", "arrays",
    ),
    Figure(
        "figure4", "Figure 4", "Masks and depth read from generated latents through the align network ({target}).", "arrays",
    ),
    Figure(
        "figure5", "Figure 5",
        "KL weight against FID; the size of a point is the standard deviation of the latents. Where all have several seeds, points "
        "are means and bars one standard deviation; else each is its first seed.",
    ),
    Figure(
        "fid_over_steps", "FID over steps",
        "FID along training, without guidance. Where there are several seeds, lines are means and bands one standard deviation.",
        optional=True,
    ),
    Figure(
        "guidance", "Guidance",
        "FID against the guidance scale, and what it costs in recall. Hollow points: guided in an interval only. Where there are "
        "several seeds, points are means and bars one standard deviation of the FID.", optional=True,
    ),
    Figure(
        "reconstructions", "Reconstructions", "Held-out images and their reconstructions from a posterior sample; nothing picked.",
        "arrays",
    ),
    Figure(
        "curves", "Training curves", "Training losses of the autoencoders and transformers behind the tables.", "everything",
    ),
    Figure("cost", "Cost", "Wall-clock and CPU time of each stage, on the machine it ran on.", "everything"),
)  # fmt: skip
"""In the order of the report."""

OF_NAME = {figure.name: figure for figure in FIGURES}


def title(figure: str) -> str:
    return OF_NAME[figure].title


def caption(experiment: Experiment, figure: str) -> str:
    evaluation, target = experiment.figures.figure3["evaluation"], experiment.scale.downstream.target
    analysis = experiment.scale.analysis
    tsne = f"{seen_by_tsne(analysis.tsne_grid)} of {'training' if analysis.tsne_split else 'held-out'}"
    return OF_NAME[figure].caption.format(evaluation=evaluation, target=target, tsne=tsne)


def seen_by_tsne(grid: int | None) -> str:
    """What of a latent Figure 1's t-SNE sees, in words (``analysis.tsne_grid``)."""
    return f"latents averaged over {grid}x{grid} cells, standardised," if grid else "averaged latents"


def along_training(experiment: Experiment) -> dict[str, list[str]]:
    """Run -> the evaluations that follow its FID along training: unguided, one sampler, at several milestones."""
    lines: dict[str, list[str]] = {}
    for name, row in _of_sheet(experiment).items():
        first = experiment.evaluations[lines[row.run][0]] if row.run in lines else row
        if row.cfg == 1 and row.sampler == first.sampler:
            lines.setdefault(row.run, []).append(name)
    return {run: names for run, names in lines.items() if len(names) > 1}


def along_guidance(experiment: Experiment) -> dict[tuple[str, str], list[str]]:
    """(run, milestone) -> the evaluations of that checkpoint that differ in guidance alone, where there are several."""
    lines: dict[tuple[str, str], list[str]] = {}
    for name, row in _of_sheet(experiment).items():
        key = (row.run, row.milestone)
        first = experiment.evaluations[lines[key][0]] if key in lines else row
        if row.sampler == first.sampler:
            lines.setdefault(key, []).append(name)
    return {key: names for key, names in lines.items() if len(names) > 1}


def _of_sheet(experiment: Experiment) -> dict[str, EvaluationRow]:
    """What is evaluated with all seeds of its run: one seed is not drawn beside the mean of several."""

    def whole(name: str, row: EvaluationRow) -> bool:
        return len(repeats(experiment.evaluations, name)) == len(repeats(experiment.runs, row.run))

    rows = {name: experiment.evaluations[name] for name in experiment.table_evaluations}
    return {name: row for name, row in rows.items() if row.repeat_of is None and row.samples == "all" and whole(name, row)}


def sweep_over_seeds(experiment: Experiment) -> bool:
    """If the points of Figure 5 are means over seeds: all have several. Else each is its first seed."""
    return all(repeats(experiment.evaluations, name) for name in experiment.figures.figure5["evaluations"])


def figures(registry: Registry) -> dict[str, Sequence[Artefact[Spec]]]:
    """Each figure of an experiment -> what must be measured for it; those that show no artefact of their own have none."""
    measured = _measured(registry)
    return {f.name: measured.get(f.name, ()) for f in FIGURES if measured.get(f.name) or not f.optional}


def _measured(registry: Registry) -> Mapping[str, Sequence[Artefact[Spec]]]:
    experiment, evaluations, analyses = registry.experiment, registry.evaluations, registry.analyses
    sheet = experiment.figures
    sweep = sheet.figure5["evaluations"]
    autoencoders = [experiment.runs[experiment.evaluations[name].run].autoencoder for name in sweep]
    return {
        "figure1": [analyses[name] for name in sheet.figure1["autoencoders"]],
        "figure3": [registry.downstream[sheet.figure3["evaluation"]]],
        "checkpoints": [evaluations[name] for name in sheet.checkpoints["evaluations"]],
        "figure4": [registry.downstream[sheet.figure4["evaluation"]]],
        "figure5": [*(evaluations[name] for name in sweep), *(analyses[name] for name in autoencoders)],
        "fid_over_steps": [evaluations[name] for names in along_training(experiment).values() for name in names],
        "guidance": [evaluations[name] for names in along_guidance(experiment).values() for name in names],
        "reconstructions": [analyses[name] for name in sheet.reconstructions["autoencoders"]],
    }


def inputs(registry: Registry, figure: str) -> list[Path]:
    """The files that a figure is drawn from, each once; none for one of everything that is measured (`Graph.drawn_from`)."""
    found: list[Path] = []
    evaluations = registry.experiment.evaluations
    for artefact in figures(registry)[figure]:
        metrics, arrays = registry.outputs(artefact)
        found += [metrics, arrays] if OF_NAME[figure].drawn_from == "arrays" else [metrics]
        if artefact.kind == "evaluation" and _over_seeds(registry.experiment, figure):
            found += [registry.outputs(registry.evaluations[name])[0] for name in repeats(evaluations, artefact.name).values()]
    return list(dict.fromkeys(found))


def _over_seeds(experiment: Experiment, figure: str) -> bool:
    """Whether a figure shows the mean of a row's seeds."""
    return figure in ("fid_over_steps", "guidance") or (figure == "figure5" and sweep_over_seeds(experiment))
