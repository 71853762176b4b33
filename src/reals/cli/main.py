"""The command line: what Snakemake calls (`reals stage`, tables, figures) and what people call themselves."""

import argparse
import errno
import os
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path

from reals.cli import check, evaluate, export, measure, plan, publish, reference, why
from reals.cli.experiment import add_experiment, one_each, registry_of
from reals.cli.sample import command as sample
from reals.experiment.stage_table import OF_COMMAND, STAGES
from reals.machine import dispatch
from reals.planning import rates
from reals.records import journal, provenance

COMMANDS = (sample, export, evaluate, reference, publish, measure, plan, check, why)
RENDERED = {
    "tables": "all tables",
    "figure": "one figure",
    "report": "the report",
    "render": "tables, figures and report from what exists",
}


def parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    add_experiment(common)
    top = argparse.ArgumentParser(prog="reals", description="ReaLS, reproduced. Snakemake calls these; so can you.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    stage = commands.add_parser("stage", help="make one artefact of the DAG (what Snakemake calls)")
    stages = stage.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for each in STAGES:
        command = stages.add_parser(each.command, parents=[common], help=each.help, description=each.help)
        command.add_argument("id", help=f"id of the {each.kind}")
        if each.numbering is not None:
            command.add_argument(each.numbering.name, type=int)
    for name, text in RENDERED.items():
        command = commands.add_parser(name, parents=[common], help=text, description=text)
        if name == "figure":
            command.add_argument("name", help="figure1 ... figure5, curves, cost, ...")
    for module in COMMANDS:
        module.add(commands)
    commands.add_parser("ids", parents=[common], help="list every artefact: kind, id, folder")
    return top


def _run(options: argparse.Namespace) -> int | None:
    if hasattr(options, "run"):
        return options.run(options)
    registry = registry_of(options)
    if options.command == "ids":
        for artefact in registry.all():
            print(f"{artefact.kind:12} {artefact.id:44} {registry.folder(artefact)}")
        return None
    book = registry.root / "journal.jsonl"
    if options.command in RENDERED:
        from reals.report import render

        with journal.job(book, "render", options.command):
            if options.command == "figure":
                render.figure(registry, options.name)
            else:
                {"tables": render.tables_only, "report": render.report, "render": render.render}[options.command](registry)
        return None
    import torch

    from reals.machine import memory
    from reals.stages.context import Context
    from reals.training import loop
    from reals.training.processes import allow_tf32

    dispatch.refuse_idle_gpus(torch.cuda.device_count(), torch.__version__)
    loop.set_threads()
    memory.keep_freed()
    allow_tf32(False)  # a training stage states its own precision
    stage = OF_COMMAND[options.stage]
    artefact = registry.find(stage.kind, options.id)
    number = [getattr(options, stage.numbering.name)] if stage.numbering is not None else []
    device = rates.this_device(int(os.environ.get("REALS_THREADS", "1")))
    # Of several processes (torchrun) the first keeps the books.
    with (
        journal.job(book if _first() else Path(os.devnull), stage.command, artefact.id, *(number or [None]), device),
        provenance.recorded(registry, artefact, *number) if _first() else nullcontext(),
    ):
        stage.function()(Context(registry), artefact, *number)
    return None


def _first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _ours(error: Exception) -> bool:
    """Whether this package raised it, to be read as it is; an error from inside a library keeps its traceback.

    A folder or file that may not be read or written says all there is to say, whoever stumbled over it.
    """
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and error.filename:
        return True
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Path(last.filename).is_relative_to(Path(__file__).parents[1])


def main(arguments: list[str]) -> int:
    """Exit code.

    0 done, 75 stopped on request with state saved, 76 another process of the run died (both: run the same command again),
    2 a mistake to mend (one line says which), 1 a bug.
    """
    called = " ".join(["reals", *arguments[: 2 if arguments[:1] == ["stage"] else 1]])
    try:
        return _run(parser().parse_args(one_each(arguments))) or 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader (head, less) has seen enough
    except (ValueError, FloatingPointError, OSError) as error:  # ConfigError and MissingArtefact are ValueErrors
        if not _ours(error):
            traceback.print_exception(error)
        if _first() or not getattr(error, "agreed", False):
            print(f"{called}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except Exception as error:
        from reals.machine.signals import EXIT_PEER, EXIT_STOPPED
        from reals.training.loop import Stopped
        from reals.training.processes import PeerLost

        if isinstance(error, Stopped):
            return EXIT_STOPPED
        if isinstance(error, PeerLost):
            print(f"{called}: {error}", file=sys.stderr)
            return EXIT_PEER
        raise
    except KeyboardInterrupt:
        print(f"{called}: interrupted", file=sys.stderr)
        return 130
    return 0
