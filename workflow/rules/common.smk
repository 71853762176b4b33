import os
import re
from pathlib import Path

from reals import files
from reals.cli import driver
from reals.experiment import figure_list
from reals.experiment.stage_table import STAGES
from reals.planning import cost

DRIVER = driver.opened(workflow, config)
EXPERIMENT, REGISTRY = DRIVER.experiment, DRIVER.registry
SCALE = EXPERIMENT.scale
ROOT = str(REGISTRY.root)
FIGURE_NAMES = list(figure_list.figures(REGISTRY))
TABLES = expand(f"{ROOT}/tables/{{table}}.{{kind}}", table=EXPERIMENT.tables, kind=["md", "csv", "tex"])
FIGURES = expand(f"{ROOT}/figures/{{figure}}.{{kind}}", figure=FIGURE_NAMES, kind=["pdf", "png"])


wildcard_constraints:
    id="[^/]+",
    step=r"\d+",
    shard=r"\d+",
    # Stages that write to one folder: the ids tell them apart.
    **{
        stage.wildcard: "|".join({re.escape(a.id) for a in REGISTRY.all() if a.kind == stage.kind})
        for stage in STAGES
        if stage.wildcard != "id"
    },


def made_from(artefact):
    """The files that show that everything an artefact is made from exists."""
    files = []
    for needed in artefact.needs:
        if needed.kind == "run":
            files.append(f"{REGISTRY.folder(needed)}/step_{artefact.spec['step']}.safetensors")
        elif needed.kind == "samples" and artefact.kind == "downstream":
            # The gallery is in shard 0.
            files += REGISTRY.outputs(needed)[:1] + REGISTRY.outputs(needed.needed("autoencoder"))
        else:
            files += REGISTRY.outputs(needed)
            if needed.kind == "features" and artefact.kind == "downstream":
                files += REGISTRY.outputs(needed.needed("teacher"))
    return [str(file) for file in files]


def unless_made(outputs, files):
    """Inputs of a job that makes ``outputs``: none where they exist already.

    ancient() alone does not do: where an input is missing too and made again for another job (as in a clone that pulled
    a part), Snakemake would run this one again as well.
    """
    made = all(os.path.exists(output) for output in outputs) and not workflow.dag_settings.forceall
    return [] if made else ancient(files)


def inputs(stage):
    """Input function of the rule of a stage."""

    def of(wildcards):
        artefact = REGISTRY.find(stage.kind, wildcards[stage.wildcard])
        if stage.kind == "run":
            return segment_inputs(artefact, int(wildcards.step))
        number = int(wildcards[stage.numbering.name]) if stage.numbering else None
        return unless_made(REGISTRY.files(artefact, number), made_from(artefact))

    return of


def segment_inputs(run, step):
    """What a milestone needs: the run's own inputs, and the milestone before it."""
    earlier = [s for s in REGISTRY.milestones(run) if s < step]
    files = [f"{REGISTRY.folder(needed)}/index.json" for needed in (*run.needs, REGISTRY.data)]
    if earlier:
        files.append(f"{REGISTRY.folder(run)}/step_{earlier[-1]}.safetensors")
    return unless_made(REGISTRY.files(run, step), files)


def metrics_of(artefact):
    return f"{REGISTRY.folder(artefact)}/metrics.json"


SHOWN = [metrics_of(REGISTRY.evaluations[name]) for name in EXPERIMENT.table_evaluations]
SHOWN += sorted({metrics_of(REGISTRY.analyses[name]) for name in EXPERIMENT.analysed_autoencoders})
SHOWN += sorted({metrics_of(artefact) for artefact in REGISTRY.downstream.values()})


def drawn_from(figure):
    """The files a figure is drawn from."""
    return SHOWN if figure in figure_list.WHOLE else [str(file) for file in figure_list.inputs(REGISTRY, figure)]


def shown_in(table):
    """The metrics files that a table shows."""
    return list(cost.Costs(REGISTRY).tables()[table])


DRAWN = sorted({file for figure in FIGURE_NAMES for file in drawn_from(figure)} - set(SHOWN))


onstart:
    DRIVER.start()


onsuccess:
    DRIVER.succeed()


onerror:
    DRIVER.fail()
