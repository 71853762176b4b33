"""Data flows one way: a room imports only from rooms above it, within a room there are no circles; what must start quickly imports little."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import REPOSITORY

SRC = REPOSITORY / "src/reals"
GROUND = {"__init__", "rng", "files", "arrays", "tensors", "progress", "lazy"}
ROOMS = (
    "experiment",
    "machine",
    "data",
    "method",
    "measure",
    "training",
    "planning",
    "records",
    "stages",
    "report",
    "cli",
    "__main__",
)
RANK = {"ground": 0} | {name: rank for rank, name in enumerate(ROOMS, 1)}
# The forked child's whole point, imported only there.
ALLOWED = {("machine/prefork.py", "cli/main.py")}


def module_file(parts: tuple[str, ...]) -> Path | None:
    """The file of a dotted name below `reals`; None where there is none."""
    path = SRC.joinpath(*parts)
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if parts and p.is_file()), None)


def imported(file: Path) -> set[str]:
    """Files of the package that a file imports, anywhere in it, relative to the package."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "reals":
            parts = tuple(node.module.split(".")[1:])
            for alias in node.names:
                if path := module_file((*parts, alias.name)) or module_file(parts):
                    found.add(str(path.relative_to(SRC)))
    return found


FILES = sorted(str(file.relative_to(SRC)) for file in SRC.rglob("*.py"))
GRAPH = {file: {other for other in imported(SRC / file) if (file, other) not in ALLOWED} for file in FILES}


def room(file: str) -> str:
    name = Path(file).parts[0].removesuffix(".py")
    return "ground" if name in GROUND else name


@pytest.mark.parametrize("file", FILES)
def test_a_room_imports_from_rooms_above(file: str):
    for other in GRAPH[file]:
        assert room(file) == room(other) or RANK[room(other)] < RANK[room(file)], f"{file} imports {other}"


SHARED_BY_STAGES = {"stages/__init__.py", "stages/context.py", "stages/inputs.py"}


@pytest.mark.parametrize("file", [file for file in FILES if room(file) == "stages"])
def test_a_stage_imports_no_other_stage(file: str):
    assert {other for other in GRAPH[file] if room(other) == "stages"} <= SHARED_BY_STAGES


def test_no_file_needs_itself():
    list(TopologicalSorter(GRAPH).static_order())  # CycleError names the circle


def test_every_room_says_what_it_is_for():
    for name in ROOMS[:-1]:
        first = (ast.get_docstring(ast.parse((SRC / name / "__init__.py").read_text())) or "").splitlines()
        assert first, f"{name}/__init__.py: no first line"


def loaded_after(imports: str, names: tuple[str, ...]) -> list[str]:
    program = f"import sys\n{imports}\nprint(*(m for m in sys.modules if m.split('.')[0] in {names!r} and '.' not in m))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.process
def test_planning_the_dag_never_imports_torch():
    imports = "from reals.cli import driver\nfrom reals.experiment import figure_table\nfrom reals.planning import cost"
    assert loaded_after(imports, ("torch", "numpy")) == []


@pytest.mark.process
@pytest.mark.parametrize("module", ["handover", "dispatch", "prefork"])
def test_what_starts_every_job_imports_the_standard_library_only(module: str):
    assert loaded_after(f"import reals.machine.{module}", ("torch", "numpy", "yaml", "pydantic")) == []
