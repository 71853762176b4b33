import re
from pathlib import Path

from reals import files
from reals.cli import driver
from reals.experiment import figure_table
from reals.experiment.protocol import protocol
from reals.experiment.stage_table import STAGES

DRIVER = driver.opened(workflow, config)
EXPERIMENT, REGISTRY, GRAPH = DRIVER.experiment, DRIVER.registry, DRIVER.graph
SCALE = EXPERIMENT.scale
ROOT = str(REGISTRY.root)
FIGURE_NAMES = list(figure_table.figures(REGISTRY))
UNASKED = [name for name, sheet in EXPERIMENT.tables.items() if not sheet.on_request]
TABLES = expand(f"{ROOT}/tables/{{table}}.{{kind}}", table=UNASKED, kind=["md", "csv", "tex"])
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


def inputs(stage):
    """Input function of a stage's rule."""
    return lambda wildcards: DRIVER.forced.inputs(GRAPH.of_rule(stage, wildcards), ancient)


SHOWN = [str(file) for file in GRAPH.metrics()]
DRAWN = sorted({str(file) for figure in FIGURE_NAMES for file in GRAPH.drawn_from(figure)} - set(SHOWN))


onstart:
    DRIVER.start()


onsuccess:
    DRIVER.succeed()


onerror:
    DRIVER.fail()
