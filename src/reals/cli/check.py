"""`reals check`: is everything in place for the first job? One line each: fine, or what to do."""

import argparse
import sys

from reals.cli.experiment import add_experiment, experiment_of, site_file_of
from reals.cli.subcommands import Subcommands


def add(commands: Subcommands) -> None:
    text = "check data, weights, disk, file system, GPUs, SLURM and DVC remote before the first job"
    p = commands.add_parser(
        "check",
        help=text,
        description=text,
        epilog="Exit code: 0 everything is in place, 1 something is to be mended, 2 a bad sheet.",
    )
    add_experiment(p)
    p.add_argument("--partition", help="a SLURM partition in place of those in config/site.yaml")
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from reals.experiment.registry import Registry
    from reals.machine import site
    from reals.planning.preflight import checks

    registry, file = Registry(experiment_of(options)), site_file_of(options)
    here, where = site.load(file), str(file)
    if options.partition:
        here, where = here.model_copy(update=dict.fromkeys(("partition", "gpu_partition"), options.partition)), "--partition"
    bad = 0
    for what, look in checks.thorough(registry, here, where):
        try:
            said, mark = look(), "ok "
        except (ValueError, OSError) as error:
            said, mark, bad = str(error), "FIX", bad + 1
        print(f"{mark} {what + ':':<22} {' '.join(said.split()).removeprefix(what + ': ')}", flush=True)
    if bad:
        print(f"reals check: {bad} thing{'s' * (bad > 1)} to mend", file=sys.stderr)
    return 1 if bad else 0
