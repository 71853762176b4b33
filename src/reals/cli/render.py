"""`reals tables`, `figure`, `report` and `render`: what people look at, made from the metrics that exist."""

import argparse

from reals.cli.experiment import add_experiment, registry_of
from reals.cli.subcommands import Subcommands

COMMANDS = {
    "tables": "all tables",
    "figure": "one figure",
    "report": "the report",
    "render": "tables, figures and report from what exists",
}


def add(commands: Subcommands) -> None:
    for name, text in COMMANDS.items():
        p = commands.add_parser(name, help=text, description=text)
        add_experiment(p)
        if name == "figure":
            p.add_argument("name", help="figure1 ... figure5, curves, cost, ...")
        p.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    registry = registry_of(options)  # before pandas and matplotlib are imported: a mistake is said at once
    from reals.records import journal
    from reals.report import commands

    with journal.job(registry.root / "journal.jsonl", "render", options.command):
        if options.command == "figure":
            commands.figure(registry, options.name)
        else:
            {"tables": commands.tables, "report": commands.report, "render": commands.render}[options.command](registry)
