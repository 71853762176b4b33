"""Data flows one way: a module imports only from layers below its own; what must start quickly imports little."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

SRC = REPOSITORY / "src/reals"
LAYERS = [
    {"notation"},
    {"config", "rng", "files", "prefork", "flops", "dispatch", "failures", "memory"},
    {"registry", "tensors", "progress", "journal", "rehearsal", "site"},
    {"rates", "drawn"},
    {"images", "paths", "ddpm", "cost", "shards", "processes", "states"},
    {"labelled", "objectives", "models", "extractors", "sources", "provenance", "publish"},
    {"preflight"},
    {"alignment", "samplers", "checkpoints", "metrics", "training"},
    {"generation", "evaluation", "launch"},
    {"report"},
    {"stages"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# The autoencoder's loader builds the align networks that travel beside it; metrics name the features they measure.
ALLOWED = {("models", "alignment")}


def imported(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "reals":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]


@pytest.mark.parametrize("file", sorted(SRC.rglob("*.py")), ids=lambda f: str(f.relative_to(SRC)))
def test_imports_point_down(file: Path):
    own = file.relative_to(SRC).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for other in imported(ast.parse(file.read_text())):
        if other in (own, "__version__") or (own, other) in ALLOWED:
            continue
        if (own, other) == ("prefork", "cli"):  # the forked child's whole point, imported only there
            continue
        assert RANK[other] < RANK[own], f"{own} imports {other}"


def test_planning_the_dag_never_imports_torch():
    program = "import sys; from reals import cost, journal, preflight, prefork, registry, config, files; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_waiting_client_imports_the_standard_library_only():
    program = "import sys; from reals import prefork; print([m for m in sys.modules if m.split('.')[0] in ('torch', 'numpy', 'yaml', 'pydantic')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
