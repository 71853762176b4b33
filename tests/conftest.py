"""Strictness for every test: one thread, deterministic kernels, our sheets in a scratch folder."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

os.environ.pop("REALS_PREFORK", None)  # tests run what they start themselves
JOB = re.compile(r"^(\w+)\s+(\d+)$", re.MULTILINE)
REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_addoption(parser):
    parser.addoption(
        "--fix",
        action="store_true",
        help="write anew what tests compare with: golden results, frozen ids, schemas and key tables",
    )


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config, items):
    """Slow tests run only where -m names them: a selection by another mark does not bring them back.

    What uses the finished run starts snakemake, so it is marked `process` without being told.
    """
    for item in items:
        if "finished" in item.fixturenames or item.get_closest_marker("workflow") or item.get_closest_marker("slow"):
            item.add_marker("process")
    if "slow" not in (config.option.markexpr or ""):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


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


@pytest.fixture
def project(tmp_path: Path, monkeypatch) -> Path:
    """A copy of what a run needs (sheets, rules), as the current folder."""
    copy_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def context(project: Path):
    """The smoke scale with prepared images of both flips."""
    from reals.experiment.load import load
    from reals.experiment.registry import Registry
    from reals.stages import data
    from reals.stages.context import Context

    edit(project / "config/scales/smoke.yaml", "flip: false", "flip: true")
    edit(project / "config/scales/smoke.yaml", "images_per_class: 40", "images_per_class: 10")
    made = Context(Registry(load("smoke")))
    data.run(made, made.registry.data)
    return made


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


def snakemake(folder: Path, *arguments: str, check: bool = True, **kwargs) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "snakemake", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, **kwargs)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def planned(folder: Path, *arguments: str) -> dict[str, int]:
    """Jobs per rule that a dry run would start."""
    text = snakemake(folder, *arguments, "-n", "-q", "rules").stdout
    return {rule: int(n) for rule, n in JOB.findall(text) if rule != "total"}


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A folder in which the smoke scale has run to its report."""
    folder = tmp_path_factory.mktemp("smoke")
    copy_project(folder)
    edit(folder / "config/config.yaml", "scale: demo", "scale: smoke")
    done = snakemake(folder)
    (folder / "printed.txt").write_text(done.stdout + done.stderr)
    return folder
