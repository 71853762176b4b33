"""What a results folder made before relies on: ids and files of every artefact of the shipped scales, names inside weights and states.

python -m pytest tests/experiment/test_frozen.py --fix     # only with a raised `rev`, or a row or scale that is new
"""

import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from safetensors import safe_open

from reals.experiment.load import load
from reals.experiment.registry import Registry

FROZEN = REPOSITORY / "tests/frozen.json"
SCALES = ("demo", "photographs", "cifar10", "imagenet100", "imagenet256", "smoke")


def named(scale: str) -> dict[str, list[str]]:
    """ "kind name" -> id and the files it is finished with, of every artefact of a scale."""
    registry = Registry(load(scale, folder=REPOSITORY / "config"))
    return {f"{a.kind} {a.name}": [a.id, *(path.name for path in registry.outputs(a))] for a in registry.all()}


def keys(value, at: str = "") -> set[str]:
    """Names in a training state, numbers (of parameters and steps) left out."""
    if not isinstance(value, dict):
        return {at}
    return set().union(*(keys(v, f"{at}/{'#' if str(k).isdigit() else k}") for k, v in value.items())) if value else {at}


def inside(folder: Path) -> dict[str, list[str]]:
    """Names of the tensors in each safetensors file, and of the entries of each state, of one artefact a kind."""
    registry = Registry(load("smoke", folder=folder / "config"))
    shown = {
        "teacher": registry.teachers["large"], "extractor": registry.extractor, "autoencoder": registry.autoencoders["reals"],
        "run": registry.runs["repa-b2-reals"], "reference": registry.reference,
    }  # fmt: skip
    found = {}
    for kind, artefact in shown.items():
        place = folder / registry.folder(artefact)
        for path in sorted(place.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                found[f"{kind}/{path.name}"] = sorted(file.keys())
        states = [*(place / "state").glob("*.pt"), *(folder / registry.states(artefact)).glob("*.pt")]
        for path in sorted(states):
            found[f"{kind}/state/{path.name}"] = sorted(keys(torch.load(path, map_location="cpu", weights_only=True)))
    return found


def compare(part: str, now: dict, regen: bool) -> None:
    frozen = json.loads(FROZEN.read_text()) if FROZEN.exists() else {}
    if regen:
        FROZEN.write_text(json.dumps({**frozen, part: now}, indent=0, sort_keys=True) + "\n")
        return
    before = frozen.get(part, {})
    assert {k: v for k, v in now.items() if before.get(k, v) != v} == {}, "changed: results made before would be made again"
    assert before.keys() - now.keys() == set(), "gone: results made before would be of no use"
    new = sorted(now.keys() - before.keys())
    assert not new, f"new: {', '.join(new)}; write it down with --fix"


def test_what_is_new_is_told_from_what_changed(monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules[__name__], "FROZEN", tmp_path / "frozen.json")
    compare("scale", {"data x": ["x-1"]}, regen=True)
    compare("scale", {"data x": ["x-1"]}, regen=False)
    for now, says in (
        ({"data x": ["x-1"], "run y": ["y-1"]}, "new: run y; write it down with --fix"),
        ({"data x": ["x-2"], "run y": ["y-1"]}, "changed: results made before"), ({}, "gone: "),
    ):  # fmt: skip
        with pytest.raises(AssertionError, match=says):
            compare("scale", now, regen=False)
    with pytest.raises(AssertionError, match="new: data x; write it down"):
        compare("another scale", {"data x": ["x-1"]}, regen=False)


@pytest.mark.parametrize("scale", SCALES)
def test_ids_and_files_are_those_of_before(scale, pytestconfig):
    compare(scale, named(scale), pytestconfig.getoption("--fix"))


@pytest.mark.workflow
def test_weights_and_states_have_the_names_of_before(finished, pytestconfig):
    compare("inside", inside(finished), pytestconfig.getoption("--fix"))
