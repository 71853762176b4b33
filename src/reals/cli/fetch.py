"""`reals fetch`: every published file that a scale names, in one folder that nodes without a network can read."""

import argparse
import sys
from pathlib import Path

from reals.cli.experiment import add_experiment, experiment_of
from reals.cli.subcommands import Subcommands


def add(commands: Subcommands) -> None:
    text = "bring every pretrained file that the scale names into one folder, for machines without a network"
    p = commands.add_parser(
        "fetch", help=text, description=text,
        epilog="What is there is not fetched again. Exit code: 0 all is there, 1 something could not be had, 2 a bad sheet.",
    )  # fmt: skip
    add_experiment(p)
    p.add_argument("--folder", help="where to (the scale's `pretrained`, where jobs look)")
    p.add_argument("--from", dest="mirror", metavar="FOLDER_OR_URL",
                   help="a mirror: a folder that was fetched elsewhere, or the URL of one (without: where the files are published)")  # fmt: skip
    p.add_argument("--verify", action="store_true", help="read what is there, and fetch again what is not as it was")
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from reals.planning import fetch, pretrained

    scale = experiment_of(options).scale
    folder = Path(options.folder or scale.pretrained)
    wanted = [file for files in pretrained.needed(scale).values() for file in files()]
    if not wanted:
        print(f"scale '{scale.name}' names no published file that is not here already: nothing to fetch")
        return 0
    failed = fetch.fetch(wanted, folder, options.mirror, options.verify, lambda line: print(line, flush=True))
    for reason in dict.fromkeys(failed.values()):
        lacking = [file for file in wanted if failed.get(file.place) == reason]
        print(f"FIX {lacking[0].key + ':':<22} {reason}")
    if failed:
        lines = [f"  {file.source} as {folder / file.place}" for file in wanted if file.place in failed]
        print(
            f"reals fetch: {len(failed)} of {len(wanted)} files are missing. Run it where there is a network and copy {folder} here, "
            "or put by hand",
            *lines,
            sep="\n",
            file=sys.stderr,
        )
        return 1
    if folder != Path(scale.pretrained):
        print(f"jobs look in {scale.pretrained}: link it to {folder}, or write `pretrained: {folder}` into the scale file")
    return 0
