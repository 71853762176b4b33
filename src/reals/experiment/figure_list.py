"""Which figures an experiment has, what they are called, the results that each is drawn from, and what stands above the tables."""

from pathlib import Path

from reals.experiment.artefact import Artefact
from reals.experiment.load import Experiment
from reals.experiment.registry import Registry
from reals.experiment.repeats import repeats
from reals.experiment.rows import EvaluationRow

CAPTIONS = {
    "figure1": "t-SNE of averaged latents, one colour a class, and the similarity of one token (marked) to all others. Below: "
    "silhouette of the classes, and accuracy of k-NN and of a linear probe, all on averaged latents of held-out images.",
    "figure2": "The pipeline: the rules of the workflow, as Snakemake knows them.",
    "figure3": "Samples ({figure3}); classes in order, first seeds, nothing picked.",
    "checkpoints": "The first samples of several checkpoints, nothing picked; each column has the same noise and label throughout.",
    "figure4": "Masks and depth read from generated latents through the align network ({target}).",
    "figure5": "KL weight against FID; the size of a point is the standard deviation of the latents. Where all have several "
    "seeds, points are means and bars one standard deviation; else each is its first seed.",
    "fid_over_steps": "FID along training, without guidance. Where there are several seeds, lines are means and bands one "
    "standard deviation.",
    "guidance": "FID against the guidance scale, and what it costs in recall. Hollow points: guided in an interval only.",
    "reconstructions": "Held-out images and their reconstructions from a posterior sample; nothing picked.",
    "curves": "Training losses of the autoencoders and transformers behind the tables.",
    "cost": "Wall-clock and CPU time of each stage, on the machine it ran on.",
}
TITLES = {
    "checkpoints": "Samples along training",
    "fid_over_steps": "FID over steps",
    "guidance": "Guidance",
    "reconstructions": "Reconstructions",
    "curves": "Training curves",
    "cost": "Cost",
}


def title(figure: str) -> str:
    return TITLES.get(figure) or f"Figure {figure.removeprefix('figure')}"


def caption(experiment: Experiment, figure: str) -> str:
    evaluation, target = experiment.figures.figure3["evaluation"], experiment.scale.downstream.target
    return CAPTIONS[figure].format(figure3=evaluation, target=target)


def protocol(registry: Registry) -> dict[str, str]:
    """What a reader must know beside every measured figure of a scale."""
    scale, seeds = registry.experiment.scale, registry.experiment.scale.seeds
    steps = ", ".join(f"{name} = {n:,}" if name != str(n) else name for name, n in scale.milestones.items())
    return {
        "data": f"{scale.data.name}, {scale.data.resolution}x{scale.data.resolution} ({scale.description})",
        "transformer steps": f"{steps}, batch {scale.transformer.batch}",
        "samples": f"{scale.sampling.samples:,}, {scale.sampling.labels} labels",
        "sampler": f"{scale.sampling.steps} steps (SiT: SDE Euler-Maruyama; DiT: respaced DDPM)",
        "feature extractor": scale.evaluation.extractor.name,
        "reference": Path(scale.evaluation.reference).name if scale.evaluation.reference else "all training images; "
        f"precision and recall against {scale.evaluation.pr_reference:,} of them",
        "LPIPS": f"{scale.autoencoder.lpips.net}, {scale.autoencoder.lpips.backbone} backbone",
        "seeds": ", ".join(f"{k} {v}" for k, v in seeds.model_dump().items()),
    }  # fmt: skip


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


def figures(registry: Registry) -> dict[str, list[Artefact]]:
    """Each figure in the order of the report -> what must be measured for it; those of the whole report name nothing."""
    experiment = registry.experiment
    sheet, evaluations, analyses = experiment.figures, registry.evaluations, registry.analyses
    sweep = sheet.figure5["evaluations"]
    drawn = {
        "figure1": [analyses[name] for name in sheet.figure1["autoencoders"]],
        "figure2": [],
        "figure3": [registry.downstream[sheet.figure3["evaluation"]]],
        "checkpoints": [evaluations[name] for name in sheet.checkpoints["evaluations"]],
        "figure4": [registry.downstream[sheet.figure4["evaluation"]]],
        "figure5": [evaluations[name] for name in sweep]
        + [analyses[experiment.runs[experiment.evaluations[name].run].autoencoder] for name in sweep],
        "fid_over_steps": [evaluations[name] for names in along_training(experiment).values() for name in names],
        "guidance": [evaluations[name] for names in along_guidance(experiment).values() for name in names],
        "reconstructions": [analyses[name] for name in sheet.reconstructions["autoencoders"]],
        "curves": [],
        "cost": [],
    }
    derived = ("fid_over_steps", "guidance")  # a sheet may hold nothing for them
    return {name: artefacts for name, artefacts in drawn.items() if artefacts or name not in derived}


ARRAYS = ("figure1", "figure3", "checkpoints", "figure4", "reconstructions")
"""Figures drawn from an artefact's second output, its arrays, beside metrics.json."""

WHOLE = ("curves", "cost")  # drawn from everything that is measured


def inputs(registry: Registry, figure: str) -> list[Path]:
    """The files a figure is drawn from, each once."""
    found: list[Path] = []
    over_seeds = figure in ("fid_over_steps", "guidance") or (figure == "figure5" and sweep_over_seeds(registry.experiment))
    for artefact in figures(registry)[figure]:
        metrics, arrays = registry.outputs(artefact)
        found += [metrics, arrays] if figure in ARRAYS else [metrics]
        if over_seeds and artefact.kind == "evaluation":
            others = repeats(registry.experiment.evaluations, artefact.name).values()
            found += [registry.outputs(registry.evaluations[name])[0] for name in others]
    return list(dict.fromkeys(found))
