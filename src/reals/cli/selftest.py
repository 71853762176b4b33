"""`reals selftest`: does everything work on this device? One line each: ok, or what to do."""

import argparse
import json
import sys
from pathlib import Path

from reals.cli.experiment import add_sheets
from reals.cli.subcommands import Subcommands


def add(commands: Subcommands) -> None:
    text = "try every part on this machine's GPU or CPU with tiny networks: what to run first on a new node"
    p = commands.add_parser(
        "selftest", help=text, description=text,
        epilog="Takes minutes, needs no data and no network. Exit code: 0 all is well, 1 something failed.",
    )  # fmt: skip
    add_sheets(p)
    p.add_argument("--quick", action="store_true", help="without what starts processes and compiles: under a minute")
    p.add_argument("--folder", type=Path, help="keep the trainings in a new folder below this one")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE too")
    p.add_argument("--train", help=argparse.SUPPRESS)  # a training in JSON: the processes that the selftest itself starts
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    import torch

    from reals import files
    from reals.cli.networks import refuse_suffix, refuse_unwritable
    from reals.planning.selftest import checks
    from reals.planning.selftest.runs import Training
    from reals.training import loop

    if options.train is not None:
        loop.set_threads()
        Training(**json.loads(options.train)).make(checks.tiny(options.sheets))
        return 0
    if options.json is not None:
        refuse_suffix("--json", options.json, ".json")
        refuse_unwritable("--json", options.json)
    found = []
    for result in checks.selftest(options.folder, options.quick, options.sheets):
        print(result, flush=True)
        found.append(result)
    failed = sum(result.mark == "FAIL" for result in found)
    if options.json is not None:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        facts = {"torch": torch.__version__, "cuda": torch.version.cuda, "code": files.code_version()}
        files.write_json(
            options.json, {"device": device, "versions": facts, "failed": failed, "checks": [asdict(result) for result in found]}
        )
    if failed:
        print(f"reals selftest: {failed} of {len(found)} failed", file=sys.stderr)
    return 1 if failed else 0
