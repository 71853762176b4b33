"""Strictness for every test: one thread, deterministic kernels, our sheets in a scratch folder; what the workers share."""

import contextlib
import fcntl
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import forks
import numpy as np
import pytest
import torch

from reals.machine.cores import cores

os.environ.pop("REALS_PREFORK", None)  # tests run what they start themselves
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of what they start: several tests share the cores
JOB = re.compile(r"^(\w+)\s+(\d+)$", re.MULTILINE)
REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_addoption(parser):
    parser.addoption(
        "--fix",
        action="store_true",
        help="write anew what tests compare with: golden results, frozen ids, schemas and key tables",
    )
    parser.addoption("--all", action="store_true", help="run the tests marked `extra` too: SLURM, a browser, LaTeX, long ones")


def leaves_out_extra(config) -> bool:
    return not config.option.all and "extra" not in (config.option.markexpr or "")


def pytest_report_header(config):
    return "left out: tests on SLURM, in a browser, of LaTeX, and long ones (--all)" if leaves_out_extra(config) else None


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist it is no hook
def pytest_xdist_auto_num_workers(config) -> int:
    """`-n auto`: a worker a core that this process may use, and one for the tests on SLURM, which wait; each takes up to 3 GB."""
    return min(cores(), 8) + bool(config.option.all)


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config, items):
    """Extra tests run only where they are asked for: a selection by another mark does not bring them back.

    What uses the finished run starts snakemake, so it is marked `process` without being told. On several workers the workflow's
    tests come first, since they take longest.
    """
    for item in items:
        if "finished" in item.fixturenames or item.get_closest_marker("workflow") or item.get_closest_marker("extra"):
            item.add_marker("process")
    if leaves_out_extra(config):
        extra = [item for item in items if item.get_closest_marker("extra")]
        config.hook.pytest_deselected(items=extra)
        items[:] = [item for item in items if not item.get_closest_marker("extra")]
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("workflow") is None)


STARTED = {"subprocess.Popen", "os.fork", "os.posix_spawn", "os.system"}
AT_ONCE = ("git", "lscpu", "sinfo", "sbatch", "squeue", "sacctmgr", "nvidia-smi")  # milliseconds, and often a test's own stand-in
_forbidden: list[str] = []  # the test that must not start a process, while it runs


def _watch(event: str, arguments: tuple) -> None:
    if _forbidden and event in STARTED and not (arguments and arguments[0] in AT_ONCE):
        raise AssertionError(f"{_forbidden[0]} starts a process ({event}: {arguments}); mark it with pytest.mark.process")


sys.addaudithook(_watch)


@pytest.fixture(autouse=True)
def _starts_no_process(request):
    """`make quick` leaves out what is marked `process`; this holds the rest to it."""
    if not request.node.get_closest_marker("process"):
        _forbidden.append(request.node.nodeid)
    yield
    _forbidden.clear()


@pytest.fixture(autouse=True, scope="session")
def _strict():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


@pytest.hookimpl(tryfirst=True)  # before the test's fixtures, which draw too
def pytest_runtest_setup(item):
    """What a test draws without a seed is then the same whatever ran before it on this worker."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def project(tmp_path: Path, monkeypatch) -> Path:
    """A copy of what a run needs (sheets, rules), as the current folder."""
    copy_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def context(project: Path, prepared: Path):
    """The smoke scale with prepared images of both flips."""
    from reals.experiment.load import load
    from reals.experiment.registry import Registry
    from reals.stages.context import Context

    _small_smoke(project)
    shutil.copytree(prepared / "results", project / "results")
    return Context(Registry(load("smoke")))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """A folder with the prepared images of ``context``."""
    from reals.experiment.load import load
    from reals.experiment.registry import Registry
    from reals.stages import data
    from reals.stages.context import Context

    def make(folder: Path) -> None:
        copy_project(folder)
        _small_smoke(folder)
        with contextlib.chdir(folder):
            made = Context(Registry(load("smoke")))
            data.run(made, made.registry.data)

    return once(tmp_path_factory, "prepared", make)


def _small_smoke(folder: Path) -> None:
    edit(folder / "config/scales/smoke.yaml", "flip: false", "flip: true")
    edit(folder / "config/scales/smoke.yaml", "images_per_class: 40", "images_per_class: 10")


def copy_project(folder: Path) -> None:
    for name in ("config", "workflow"):
        shutil.copytree(REPOSITORY / name, folder / name)
    shutil.copy(REPOSITORY / "Snakefile", folder)
    (folder / "profiles").symlink_to("workflow/profiles")


def edit(path: Path, old: str, new: str) -> None:
    """Replaces one text that must stand in the file."""
    text = path.read_text()
    assert old in text, f"{old!r} is not in {path}"
    path.write_text(text.replace(old, new, 1))


def snakemake(folder: Path, *arguments: str, check: bool = True, env: dict[str, str] | None = None):
    """What it printed and its exit code; in an interpreter of its own where an environment is given."""
    if env is None:
        done = forks.snakemake(folder, *arguments)
    else:
        command = [sys.executable, "-m", "snakemake", *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1800, env=env)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def planned(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> dict[str, int]:
    """Jobs per rule that a dry run would start."""
    text = snakemake(folder, *arguments, "-n", "-q", "rules", env=env).stdout
    return {rule: int(n) for rule, n in JOB.findall(text) if rule != "total"}


def once(tmp_path_factory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first worker to ask for it makes, by ``make(folder)``, and that all of them read."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    made, failed = folder.with_suffix(".made"), folder.with_suffix(".failed")
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not failed.exists(), f"another worker could not make {name}"
        if not made.exists():
            failed.touch()
            folder.mkdir()
            make(folder)
            failed.rename(made)
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A folder in which the smoke scale has run to its report."""

    def make(folder: Path) -> None:
        copy_project(folder)
        edit(folder / "config/config.yaml", "scale: demo", "scale: smoke")
        done = snakemake(folder, env=dict(os.environ))
        (folder / "printed.txt").write_text(done.stdout + done.stderr)

    return once(tmp_path_factory, "smoke", make)


@pytest.fixture(scope="session")
def publication(finished, tmp_path_factory) -> Path:
    """A project whose smoke run is published, and whose own results are those of ``finished``; no test changes it."""
    from reals.cli.main import main

    def make(folder: Path) -> None:
        shutil.copytree(
            finished, folder, dirs_exist_ok=True, symlinks=True, ignore=shutil.ignore_patterns(".snakemake", "results")
        )
        (folder / "results").mkdir()
        (folder / "results/smoke").symlink_to(finished / "results/smoke")
        with contextlib.chdir(folder):
            assert main(["publish", "--results"]) == 0

    return once(tmp_path_factory, "publication", make)
