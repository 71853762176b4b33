"""The stage table: what it says fits what stages are, and a stage that is added to it is known everywhere without more."""

import re
import subprocess
import sys

import pytest
import yaml
from conftest import REPOSITORY, snakemake

from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.experiment.stage_table import OF_COMMAND, OF_KIND, SHARD, STAGES, STEP
from reals.records import publish


def test_kinds_and_commands_are_unique():
    assert len(OF_KIND) == len(OF_COMMAND) == len(STAGES)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.command)
def test_every_stage_names_a_function_that_is_there(stage):
    assert callable(stage.function())


def test_every_kind_of_artefact_has_a_stage():
    registry = Registry(load("smoke", folder=REPOSITORY / "config"))
    assert {artefact.kind for artefact in registry.all()} == set(OF_KIND)


def test_files_are_numbered_as_their_rule_writes_them():
    run, samples, data = OF_KIND["run"], OF_KIND["samples"], OF_KIND["data"]
    assert (run.numbering, samples.numbering, data.numbering) == (STEP, SHARD, None)
    assert run.files(400) == ("step_400.safetensors",) and samples.files(7) == ("shard_007.npy",)
    assert run.patterns() == ("runs/{id}/step_{step}.safetensors",) and run.log() == "logs/transformer/{id}_{step}.log"
    assert samples.patterns() == ("samples/{id}/shard_{shard}.npy",) and samples.log() == "logs/sample/{id}_{shard}.log"
    assert data.files() == ("index.json",) and data.patterns() == ("data/{id}/index.json",)
    assert OF_KIND["analysis"].patterns() == ("metrics/{analysis}/metrics.json", "metrics/{analysis}/latents.npz")


def test_dvc_keeps_what_the_table_says():
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    assert list(stages) == list(publish.DVC_STAGES)


ADDED = """
import reals.experiment.stage_table as table

probe = table.Stage(
    kind="probe", command="probe", help="probe a run", run="json:loads", folder="probes", rev=1, priority=5, together=True,
    outputs=("metrics.json",), published=("probe",),
)
table.STAGES = (*table.STAGES, probe)
table.OF_KIND["probe"] = table.OF_COMMAND["probe"] = probe
"""


def with_probe(program: str, cwd=REPOSITORY) -> str:
    """What a program prints whose stage table has one stage more."""
    done = subprocess.run([sys.executable, "-c", ADDED + program], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.process
def test_a_stage_that_is_added_is_known_to_command_line_and_dvc():
    printed = with_probe("""
from reals.cli import main
from reals.records import publish
from types import SimpleNamespace
from reals.experiment.artefact import Artefact
made = Artefact("x", SimpleNamespace(kind="probe"))
print(main.parser().parse_args(["stage", "probe", "x-1"]).stage, publish.DVC_STAGES[-1], made.stage.folder)
""")
    assert printed.split() == ["probe", "probe", "probes"]


@pytest.mark.workflow
def test_a_stage_that_is_added_gets_its_rule(project):
    assert (
        "probe"
        in with_probe('from snakemake.cli import main\nmain(["--list-rules", "--config", "scale=smoke"])', project).split()
    )


@pytest.mark.workflow
def test_the_rules_start_a_process_for_each_gpu_in_just_those_stages(project):
    done = snakemake(project, "--dry-run", "--printshellcmds", "--quiet", "host", "--config", "scale=smoke")
    started = re.findall(r"reals\.machine\.dispatch (.*?)stage (\w+) ", done.stdout + done.stderr)
    assert {stage for _, stage in started} == set(OF_COMMAND)
    for options, stage in started:
        assert ("--together" in options) == OF_COMMAND[stage].together
