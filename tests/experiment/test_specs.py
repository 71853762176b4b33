"""Typed specs: what they hold is in the id, under the keys that ids were always made of."""

import dataclasses
import json
from typing import get_args

import pytest
from conftest import REPOSITORY

from reals.experiment import specs
from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.experiment.stage_table import OF_KIND

SMOKE = Registry(load("smoke", folder=REPOSITORY / "config"))
OF_EACH_CLASS = {type(artefact.spec): artefact for artefact in SMOKE.all()}


def test_every_stage_has_a_spec():
    assert {spec.kind for spec in get_args(specs.Spec)} == set(OF_KIND)


@pytest.mark.parametrize("scale", ["demo", "photographs", "cifar10", "imagenet100", "imagenet256"])
def test_an_identity_is_plain_json_without_empty_entries(scale):
    for artefact in Registry(load(scale, folder=REPOSITORY / "config")).all():
        identity = specs.to_identity(artefact.spec)
        assert json.loads(json.dumps(identity)) == identity and "null" not in json.dumps(identity)
        assert (identity["kind"], identity["rev"]) == (artefact.kind, artefact.stage.rev)


@pytest.mark.parametrize("spec", OF_EACH_CLASS, ids=lambda spec: spec.__name__)
def test_every_field_decides_the_id(spec):
    """Another value in any field, and in any of a nested spec, is another artefact."""
    made = OF_EACH_CLASS[spec]
    for field in dataclasses.fields(spec):
        value = getattr(made.spec, field.name)
        inner = [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
        others = [dataclasses.replace(value, **{name: "another"}) for name in inner] or ["another"]
        for other in others:
            assert dataclasses.replace(made, spec=dataclasses.replace(made.spec, **{field.name: other})).id != made.id, field.name


def test_the_ids_of_what_an_artefact_needs_are_in_its_spec():
    for artefact in SMOKE.all():
        assert {needed.id for needed in artefact.needs} <= set(map(str, artefact.identity.values()))


def test_one_word_one_meaning():
    """`path` was the interpolant of a run and the SDE's settings of samples; in spec.json both are called so still."""
    run, samples = SMOKE.runs["sit-b2-control"], SMOKE.samples["sit-b2-control_400K"]
    on_vp = dataclasses.replace(run.spec, interpolant="vp")
    assert specs.to_identity(on_vp) == run.identity | {"path": "vp"}
    assert samples.identity["path"] == dataclasses.asdict(samples.spec.sde)
    drawn = dataclasses.replace(samples.spec, interpolant="vp", sde=None)
    assert specs.to_identity(drawn)["interpolant"] == "vp" and "path" not in specs.to_identity(drawn)
