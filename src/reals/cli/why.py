"""`reals why`: where a number or a file comes from, down to data and seeds, and the command that makes it again."""

import argparse

from reals.cli.experiment import add_experiment, experiment_of
from reals.cli.subcommands import Subcommands


def add(commands: Subcommands) -> None:
    text = "the lineage of a file, an artefact or a table's cell, and the command that makes it again"
    p = commands.add_parser("why", help=text, description=text, epilog="Example: reals why table03:sit-b2-reals_400K:fid")
    p.add_argument(
        "what", help="a file below results/, an artefact's id or name, or table03:<row>:<column> (as in config/tables/)"
    )
    add_experiment(p)
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    from pathlib import Path

    from reals.experiment.registry import Registry
    from reals.records import lineage, provenance, published

    registry = Registry(experiment_of(options))
    title, targets = lineage.resolve(registry, options.what)
    print(title)
    if said := published.note(published.shown(registry)):
        print(f"({said})")
    for line in lineage.lineage(registry, *targets):
        print(line)
    print(f"again: {provenance.remake(registry, *map(Path, targets))}   (delete first what exists)")
