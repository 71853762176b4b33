"""`reals stage`: one artefact of the DAG, which is what Snakemake calls."""

import argparse
import os
from contextlib import nullcontext
from pathlib import Path

from reals.cli.experiment import add_experiment, registry_of
from reals.cli.subcommands import Subcommands
from reals.experiment.stage_table import OF_COMMAND, STAGES
from reals.machine.cores import threads
from reals.machine.world import world


def add(commands: Subcommands) -> None:
    p = commands.add_parser("stage", help="make one artefact of the DAG (what Snakemake calls)")
    stages = p.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for stage in STAGES:
        command = stages.add_parser(stage.command, help=stage.help, description=stage.help)
        add_experiment(command)
        command.add_argument("id", help=f"id of the {stage.kind}")
        if stage.numbering is not None:
            command.add_argument(stage.numbering.name, type=int)
        command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Makes the artefact, and records its making and what it took."""
    registry = registry_of(options)  # before torch is imported: a mistake is said at once
    import torch

    from reals.machine import dispatch, memory
    from reals.method.precision import allow_tf32
    from reals.planning import rates
    from reals.records import journal, provenance
    from reals.stages.context import Context
    from reals.training import loop

    dispatch.refuse_idle_gpus(torch.cuda.device_count(), torch.__version__)
    loop.set_threads()
    memory.keep_freed()
    allow_tf32(False)  # a training stage states its own precision
    stage = OF_COMMAND[options.stage]
    artefact = registry.find(stage.kind, options.id)
    number = [getattr(options, stage.numbering.name)] if stage.numbering is not None else []
    device = rates.this_device(threads())
    first = is_first()
    book = registry.root / "journal.jsonl" if first else Path(os.devnull)
    with (
        journal.job(book, stage.command, artefact.id, number[0] if number else None, device),
        provenance.recorded(registry, artefact, *number) if first else nullcontext(),
    ):
        stage.function()(Context(registry), artefact, *number)


def is_first() -> bool:
    """Whether this is the process that keeps the books and speaks, of the several that torchrun may have started."""
    return world().rank == 0
