"""A process is one of many where a launcher says so in full; what else stands in the environment counts for nothing."""

import os

import pytest
from forks import numbered

from reals.cli.main import main
from reals.machine import dispatch
from reals.machine.cores import cores
from reals.machine.world import PLACE, World, forget, ignore_leftovers, launched, world
from reals.training.processes import Processes

LEFT = [
    {"WORLD_SIZE": "2"},
    {"RANK": "1"},
    {"LOCAL_WORLD_SIZE": "8"},
    {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "job-0", "MASTER_PORT": "23456"},  # Kubeflow counts machines
    numbered(0, 2) | {"MASTER_ADDR": ""},
    numbered(2, 2),
    numbered(0, 2) | {"RANK": "first"},
]


@pytest.fixture
def environment(monkeypatch):
    """Sets what it is called with and nothing else of a launcher's, as long as the test runs."""
    before = dict(os.environ)

    def set_to(values: dict[str, str]) -> None:
        forget()
        os.environ.update(values)

    yield set_to
    os.environ.clear()
    os.environ.update(before)


def test_a_launcher_numbers_its_processes(environment):
    environment(numbered(3, 4))
    assert world() == World(3, 4, 3, 4) and launched() and ignore_leftovers() is None
    environment({name: value for name, value in numbered(0, 1).items() if name != "LOCAL_WORLD_SIZE"})
    assert world() == World() and launched() and ignore_leftovers() is None
    environment({"MASTER_ADDR": "here", "OMP_NUM_THREADS": "4"})
    assert world() == World() and not launched() and ignore_leftovers() is None


@pytest.mark.parametrize("left", LEFT)
def test_numbers_that_no_launcher_set_are_ignored_and_named(environment, left, project, capsys):
    environment(left)
    assert world() == World() and not launched() and cores() == len(os.sched_getaffinity(0))
    with Processes() as processes:  # waits for nobody
        assert (processes.rank, processes.count, processes.main) == (0, 1, True)
    assert main(["ids", "--config", "scale=smok"]) == 2
    said, mistake = capsys.readouterr().err.splitlines()
    assert said.startswith("reals ids: ignored ") and "did you mean 'smoke'" in mistake
    assert all((f"{name}={left.get(name)}" in said) == (name in left) for name in PLACE)
    assert not set(PLACE) & set(os.environ)  # libraries read them too


def test_a_job_is_a_world_of_its_own(environment, monkeypatch):
    environment(numbered(1, 2) | {"TORCHELASTIC_RUN_ID": "x", "PET_NNODES": "2", "OMP_NUM_THREADS": "4"})
    seen: dict[str, str] = {}
    monkeypatch.setattr(dispatch, "_on_this_machine", lambda options: seen.update(os.environ))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    dispatch.main(["stage", "data", "x"])
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_RUN_ID", "PET_NNODES"} & set(seen)
    assert seen["OMP_NUM_THREADS"] == "4"
