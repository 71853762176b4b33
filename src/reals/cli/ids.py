"""`reals ids`: every artefact of an experiment, by kind, id and folder."""

import argparse

from reals.cli.experiment import add_experiment, registry_of
from reals.cli.subcommands import Subcommands


def add(commands: Subcommands) -> None:
    text = "list every artefact: kind, id, folder"
    p = commands.add_parser("ids", help=text, description=text)
    add_experiment(p)
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    registry = registry_of(options)
    for artefact in registry.all():
        print(f"{artefact.kind:12} {artefact.id:44} {registry.folder(artefact)}")
