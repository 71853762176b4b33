"""What answers from sheets and files alone starts without the libraries that take seconds to import."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "pandas", "scipy", "matplotlib", "sklearn", "diffusers")
COMMANDS = {
    "help": "main(['--help'])",
    "ids": "main(['ids', '--config', 'scale=smoke'])",
    "why": "main(['why', 'table03:sit-b2-reals_400K:fid', '--config', 'scale=smoke'])",
    "claim": "main(['claim', '--config', 'scale=smoke']) != 2",  # nothing is measured
    "plan": "main(['plan', '--config', 'scale=imagenet256', '--gpu', 'h100', '--no-memory'])",
    "snakemake's look before the first job": "checks.at_start(registry('smoke'))",
    "snakemake's last lines": "list(cost.estimated(cost.Costs(registry('smoke')), [], Path('config/rates.yaml')))",
}
PROGRAM = """\
import sys
from pathlib import Path
from reals.cli import driver
from reals.cli.experiment import experiment_from
from reals.cli.main import main
from reals.experiment.registry import Registry
from reals.planning import cost
from reals.planning.preflight import checks

def registry(scale):
    return Registry(experiment_from({{'scale': scale}}))

try:
    assert not {command}
except SystemExit as end:
    assert not end.code
print('heavy:', *sorted(set({heavy}) & set(sys.modules)))
"""


@pytest.mark.process
@pytest.mark.parametrize("what", COMMANDS)
def test_nothing_heavy_is_imported(project, what):
    program = PROGRAM.format(command=COMMANDS[what], heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy:"
