"""`make` on machines that are not ours: an environment that was left half made, and what the lock file gives to each kind of machine."""

import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
from conftest import REPOSITORY
from packaging.requirements import Requirement

pytestmark = pytest.mark.process

PIP = '#!/bin/sh\necho "$@" >> pip-was-asked\n'
NO_PIP = '#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n'


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path) -> Path:
    """What `make` needs, and a python that makes an environment (and says so) without network."""
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    program(tmp_path / "whole", PIP)
    program(
        tmp_path / "python3.11",
        'case "$*" in "-m venv "*) echo "$*" >> made; rm -rf .venv; mkdir -p .venv/bin; cp whole .venv/bin/python;; esac\n',
    )
    return tmp_path


def make(folder: Path) -> str:
    """What was made; the target is the environment alone."""
    command = ["make", ".venv/.ready", f"PYTHON={folder / 'python3.11'}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    made = folder / "made"
    return made.read_text() if made.exists() else ""


def test_an_environment_without_pip_is_made_anew(checkout):
    program(checkout / ".venv/bin/python", NO_PIP)
    assert make(checkout) == "-m venv --clear .venv\n"
    assert "pip install" in (checkout / "pip-was-asked").read_text()


def test_an_environment_is_made_once(checkout):
    assert make(checkout) == "-m venv --clear .venv\n"
    (checkout / ".venv/.ready").unlink()
    assert make(checkout) == "-m venv --clear .venv\n"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_lock_gives_each_linux_machine_what_torch_asks_for(machine):
    there = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": machine, "extra": ""}

    def wanted(lines) -> set[str]:
        found = [Requirement(line) for line in lines]
        return {r.name.lower().replace("_", "-") for r in found if r.marker is None or r.marker.evaluate(there)}

    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    locked = wanted(line for line in lines if line and not line.startswith("#"))
    assert wanted(metadata.requires("torch")) <= locked
