"""The command line: what Snakemake calls (`reals stage`, tables, figures) and what people call themselves."""

import argparse
import errno
import os
import sys
import traceback
from pathlib import Path

from reals.cli import (
    check,
    claim,
    evaluate,
    export,
    fetch,
    hub,
    ids,
    measure,
    out_of_memory,
    plan,
    publish,
    reference,
    render,
    selftest,
    stage,
    why,
)
from reals.cli.experiment import one_each
from reals.cli.sample import command as sample
from reals.machine import restarts, scratch
from reals.machine.signals import EXIT_DONE, EXIT_INTERRUPTED, EXIT_MISTAKE, EXIT_PEER, EXIT_STOPPED

COMMANDS = (
    stage, render, sample, export, hub, evaluate, reference, publish, measure, plan, fetch, check, selftest, claim, why, ids,
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="reals", description="ReaLS, reproduced. Snakemake calls these; so can you.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add(commands)
    return top


def _ours(error: Exception) -> bool:
    """Whether this package raised it, to be read as it is; an error from inside a library keeps its traceback.

    A folder or file that may not be read or written says all there is to say, whoever stumbled over it.
    """
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and error.filename:
        return True
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Path(last.filename).is_relative_to(Path(__file__).parents[1])


def _without_memory(called: str, error: Exception, options: argparse.Namespace) -> int:
    restarts.note_end("hopeless")
    print(f"{called}: {out_of_memory.line(error, options)}", file=sys.stderr)
    return EXIT_MISTAKE


def main(arguments: list[str]) -> int:
    """Runs one command; its exit code is one of `reals.machine.signals`. A bug raises."""
    called = " ".join(["reals", *arguments[: 2 if arguments[:1] == ["stage"] else 1]])
    options = argparse.Namespace()
    try:
        for said in scratch.settle():
            print(f"{called}: {said}", file=sys.stderr)
        options = parser().parse_args(one_each(arguments))
        return options.run(options) or EXIT_DONE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader (head, less) has seen enough
    except (ValueError, FloatingPointError, OSError) as error:  # ConfigError and MissingArtefact are ValueErrors
        if out_of_memory.ran_out(error):
            return _without_memory(called, error, options)
        if not _ours(error):
            traceback.print_exception(error)
        elif not isinstance(error, OSError) and not getattr(error, "passing", False):
            restarts.note_end("hopeless")
        if stage.is_first() or not getattr(error, "agreed", False):
            print(f"{called}: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_MISTAKE
    except Exception as error:
        from reals.training.loop import Stopped
        from reals.training.processes import PeerLost

        if isinstance(error, Stopped):
            restarts.note_end("stopped")
            return EXIT_STOPPED
        if isinstance(error, PeerLost):
            print(f"{called}: {error}", file=sys.stderr)
            return EXIT_PEER
        if out_of_memory.ran_out(error):
            return _without_memory(called, error, options)
        raise
    except KeyboardInterrupt:
        print(f"{called}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return EXIT_DONE
