"""What each stage made when its `rev` was last looked at: results that change without a new `rev` would be taken for the old ones.

python -m pytest tests/workflow/test_golden.py --fix     # after raising `rev` of the changed stages in reals/experiment/stage_table.py
"""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from safetensors.numpy import load_file

from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.experiment.stage_table import STAGES

REVS = {stage.kind: stage.rev for stage in STAGES}
GOLDEN = REPOSITORY / "tests/golden.json"
TOLERANCE = 2e-3  # of the vector's length; float sums on another machine differ by less, one training step by more
CHAOTIC = {"silhouette"}  # of the t-SNE, which amplifies the last bit

pytestmark = pytest.mark.workflow


def summary(array: np.ndarray) -> float:
    """The array's product with a fixed random vector, as a multiple of its own length: moves with any change by its size."""
    flat = array.ravel().astype(np.float64)
    direction = np.random.default_rng(0).standard_normal(flat.size)
    return round(float(flat @ direction / max(np.linalg.norm(flat), 1e-12)), 6)


def measured(folder: Path, registry: Registry) -> dict[str, dict]:
    """kind -> rev, and artefact -> name of an array or metric -> number."""
    kinds: dict[str, dict] = {kind: {"rev": rev, "artefacts": {}} for kind, rev in REVS.items()}
    for artefact in registry.all():
        place, values = folder / registry.folder(artefact), {}
        for path in sorted([*place.glob("*.npy"), *place.glob("*.safetensors")]):
            arrays = {"": np.load(path)} if path.suffix == ".npy" else load_file(path)
            flat = [array.ravel() for _, array in sorted(arrays.items())]
            values[path.name] = summary(np.concatenate(flat))
        if (place / "metrics.json").exists():
            result = json.loads((place / "metrics.json").read_text())["values"]
            values |= {name: round(value, 6) for name, value in result.items() if name not in CHAOTIC}
        kinds[artefact.kind]["artefacts"][artefact.name] = values
    return kinds


def close(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        a[artefact].keys() == b[artefact].keys()
        and all(abs(value - b[artefact][name]) <= TOLERANCE * max(1.0, abs(value)) for name, value in a[artefact].items())
        for artefact in a
    )


def changed_without_rev(golden: dict, now: dict, upstream: dict[str, set[str]]) -> list[str]:
    """Kinds whose results moved although neither their own rev nor anything they are made from did."""
    moved = {kind for kind in now if kind not in golden or not close(golden[kind]["artefacts"], now[kind]["artefacts"])}
    raised = {kind for kind in now if kind in golden and golden[kind]["rev"] != now[kind]["rev"]}
    return sorted(kind for kind in moved - raised if not upstream[kind] & (moved | raised))


def known_and_new(golden: dict, now: dict) -> tuple[dict, list[str]]:
    """What is now of the artefacts that ``golden`` holds, and "kind name" of those that it does not."""
    known, new = {}, []
    for kind, made in now.items():
        before = golden.get(kind, {"artefacts": {}})["artefacts"]
        new += [f"{kind} {name}" for name in made["artefacts"] if name not in before]
        if kind in golden:
            known[kind] = made | {"artefacts": {name: v for name, v in made["artefacts"].items() if name in before}}
    return known, new


def upstream_kinds(registry: Registry) -> dict[str, set[str]]:
    """kind -> other kinds that its artefacts are made from, near and far."""
    direct: dict[str, set[str]] = {kind: set() for kind in REVS}
    for artefact in registry.all():
        direct[artefact.kind] |= {needed.kind for needed in artefact.needs}
    reached = {kind: set(kinds) for kind, kinds in direct.items()}
    for _ in REVS:
        reached = {kind: kinds.union(*(direct[other] for other in kinds)) for kind, kinds in reached.items()}
    return {kind: kinds - {kind} for kind, kinds in reached.items()}


def test_no_result_changed_without_its_rev(finished, pytestconfig):
    registry = Registry(load("smoke", folder=finished / "config"))
    now = measured(finished, registry)
    if pytestconfig.getoption("--fix"):
        GOLDEN.write_text(json.dumps(now, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())
    known, new = known_and_new(golden, now)
    guilty = changed_without_rev(golden, known, upstream_kinds(registry))
    assert not guilty, (
        f"results of {', '.join(guilty)} changed: raise their `rev` in src/reals/experiment/stage_table.py, then --fix (see above)"
    )
    assert not new, f"new: {', '.join(new)}; write it down with --fix"
    assert {k: v["rev"] for k, v in golden.items()} == REVS, "a rev was raised: write the new results down with --fix"
    assert all(close(golden[kind]["artefacts"], now[kind]["artefacts"]) for kind in now), "results moved with a rev: --fix"


def test_a_change_is_blamed_on_the_stage_that_made_it():
    golden = {kind: {"rev": 1, "artefacts": {"x": {"v": 1.0}}} for kind in ("latents", "run", "samples")}
    upstream = {"latents": set(), "run": {"latents"}, "samples": {"run", "latents"}}
    now = json.loads(json.dumps(golden))
    assert changed_without_rev(golden, now, upstream) == []
    now["run"]["artefacts"]["x"]["v"] = now["samples"]["artefacts"]["x"]["v"] = 1.1
    assert changed_without_rev(golden, now, upstream) == ["run"]
    now["run"]["rev"] = 2
    assert changed_without_rev(golden, now, upstream) == []


def test_what_is_new_is_no_change():
    golden = {"run": {"rev": 1, "artefacts": {"x": {"v": 1.0}}}}
    now = {"run": {"rev": 1, "artefacts": {"x": {"v": 1.0}, "y": {"v": 2.0}}}, "probe": {"rev": 1, "artefacts": {"z": {}}}}
    assert known_and_new(golden, now) == (golden, ["run y", "probe z"])


def test_one_more_step_or_another_seed_moves_a_summary_beyond_the_tolerance():
    weights = np.random.default_rng(1).standard_normal(10_000) * 0.05
    step = np.random.default_rng(2).choice([-1e-3, 1e-3], 10_000)  # AdamW's first steps move each weight by the learning rate
    assert abs(summary(weights) - summary(weights + step)) > TOLERANCE
    assert abs(summary(weights) - summary(weights * (1 + 1e-6))) < TOLERANCE
