"""Schemas and key tables are those of the models, every key is explained, and the shipped files are what their schemas say.

python -m pytest tests/experiment/test_schema.py --fix     # after a change of a model: writes schemas and tables anew
"""

import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from conftest import REPOSITORY

from reals.experiment import schema
from reals.machine.site import Site

CONFIG = REPOSITORY / "config"
FILES = schema.FILES | {"site": Site}
NAMES_SCHEMA = re.compile(r"# yaml-language-server: \$schema=(\S+)\n")
OF_OTHERS = {"config.yaml", "rates.yaml"}  # snakemake's own, and a table of numbers
YAML = sorted(path for path in CONFIG.rglob("*.yaml") if path.name not in OF_OTHERS)


@pytest.mark.parametrize("name", FILES)
def test_a_schema_is_that_of_its_model(name, pytestconfig):
    path = CONFIG / f"schema/{name}.json"
    if pytestconfig.getoption("--fix"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(schema.document(FILES[name]))
    assert path.read_text() == schema.document(FILES[name]), "a model changed: --fix (see above)"


def test_the_manual_has_the_keys_of_the_models(pytestconfig):
    path = CONFIG / "README.md"
    if pytestconfig.getoption("--fix"):
        path.write_text(schema.with_key_tables(path.read_text()))
    text = path.read_text()
    assert text == schema.with_key_tables(text), "a model changed: --fix (see above)"
    for name in ("scale", *schema.SHEETS):
        assert f"<!-- keys of {name} -->" in text


@pytest.mark.parametrize("kind", [*FILES.values(), *schema.SHEETS.values()], ids=[*FILES, *schema.SHEETS])
def test_every_key_is_explained(kind):
    made = schema.schema(kind)
    for name, block in {"": made, **made.get("$defs", {})}.items():
        unexplained = [key for key, value in block.get("properties", {}).items() if not value.get("description")]
        assert unexplained in ([], ["repeat_of"]) or name == "SamplerCell", f"{name}: no docstring below {unexplained}"


@pytest.mark.slow
@pytest.mark.parametrize("path", YAML, ids=lambda path: str(path.relative_to(CONFIG)))
def test_a_shipped_file_names_its_schema_and_is_what_it_says(path):
    named = NAMES_SCHEMA.match(path.read_text())
    assert named, f"{path}: the first line names no schema"
    where: Path = path.parent / named[1]
    assert where.resolve().parent == CONFIG / "schema"
    checks = jsonschema.Draft202012Validator(yaml.safe_load(where.read_text()))
    checks.validate(yaml.safe_load(path.read_text()))


def test_a_schema_refuses_what_the_model_refuses():
    checks = jsonschema.Draft202012Validator(schema.schema(FILES["scale"]))
    good = yaml.safe_load((CONFIG / "scales/demo.yaml").read_text())
    assert checks.is_valid(good | {"transformer": good["transformer"] | {"precision": "fp32"}})
    for wrong in (
        {"features": "sometimes"},
        {"feature": "cached"},
        {"seeds": {"analysis": -1}},
        {"resources": {"training": {}}},
        {"latent": {"channels": 4}},
        {"transformer": good["transformer"] | {"precision": "fp8"}},
    ):
        assert not checks.is_valid(good | wrong), wrong


def test_docstrings_of_a_model_and_its_base_are_found():
    found = schema.descriptions(schema.SHEETS["runs.tsv"])
    assert list(found)[:3] == ["name", "seeds", "model"]
    assert found["model"] == "Family, size and patch, such as SiT-B/2."
