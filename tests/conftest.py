"""Strictness for every test: one thread, deterministic kernels, our sheets in a scratch folder."""

import os
import shutil
from pathlib import Path

import pytest
import torch

os.environ.pop("REALS_PREFORK", None)  # tests run what they start themselves
REPOSITORY = Path(__file__).resolve().parents[1]


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
