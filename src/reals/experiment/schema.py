"""JSON Schemas and key tables of the configuration files, from the models that check them and the docstrings below their keys."""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from reals.experiment.claim_sheet import ClaimSheet
from reals.experiment.paper import Paper
from reals.experiment.reading import Strict
from reals.experiment.report_sheets import FigureSheet, TableHead
from reals.experiment.rows import AutoencoderRow, EvaluationRow, RunRow
from reals.experiment.scale import Scale

Schema = dict[str, Any]

FILES: dict[str, Any] = {
    "scale": Scale,
    "paper": Paper,
    "tables": dict[str, TableHead],
    "figures": FigureSheet,
    "claim": ClaimSheet,
}
"""Name of a schema -> the type that such a YAML file is read as; the site file's is `reals.machine.site.Site`."""
SHEETS: dict[str, type[Strict]] = {"autoencoders.tsv": AutoencoderRow, "runs.tsv": RunRow, "evaluations.tsv": EvaluationRow}

KEYS = re.compile(r"(?P<begin><!-- keys of (?P<name>[\w.]+) -->).*?(?P<end><!-- end -->)", re.DOTALL)
DOCS = re.compile(r"docs/[\w-]+\.md")


def descriptions(model: type[Strict]) -> dict[str, str]:
    """Key -> the docstring below it, of a model and those it is derived from, on one line each."""
    found = {}
    for cls in reversed(model.__mro__):
        if issubclass(cls, Strict) and cls is not Strict:
            [definition] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
            assert isinstance(definition, ast.ClassDef)
            for key, text in pairwise(definition.body):
                match key, text:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                        found[name] = " ".join(said.split())
    return found


class _Described(GenerateJsonSchema):
    """Keys with their docstrings; without the titles that only repeat the keys.

    Not by pydantic's use_attribute_docstrings: it reads the sources whenever a model is made, which would double the time that
    every command takes to start.
    """

    def model_schema(self, schema: Any) -> Schema:
        made = super().model_schema(schema)
        for key, text in descriptions(schema["cls"]).items():
            made["properties"][key]["description"] = text
        made["description"] = " ".join(made.get("description", "").split())
        return made

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema(kind: Any) -> Schema:
    """The JSON Schema of what is read as ``kind``."""
    made = TypeAdapter(kind).json_schema(schema_generator=_Described)
    return {"$schema": GenerateJsonSchema.schema_dialect, **made}


def document(kind: Any) -> str:
    """The text of a schema file."""
    return json.dumps(schema(kind), indent=1, ensure_ascii=False) + "\n"


def key_tables(kind: Any) -> str:
    """Markdown tables of every key of what is read as ``kind``, a block each, under the places where that block may stand."""
    made = schema(kind)
    known = made.get("$defs", {})
    places: dict[str, list[str]] = {}
    _find_blocks(made, known, "", places)
    parts = [_table(made, known)]
    for name, at in places.items():
        said = f"**{', '.join(f'`{place}`' for place in at)}**: {known[name]['description']}"
        parts += [textwrap.fill(said, 120, break_long_words=False, break_on_hyphens=False), _table(known[name], known)]
    return "\n\n".join(parts) + "\n"


def column_table(model: type[Strict]) -> str:
    """A Markdown table of the columns of a sheet."""
    return "\n".join(
        ["| column | meaning |", "|---|---|", *(f"| `{key}` | {text} |" for key, text in descriptions(model).items())]
    )


def _table(block: Schema, known: dict[str, Schema]) -> str:
    rows = ["| key | takes | default | meaning |", "|---|---|---|---|"]
    for key, value in block["properties"].items():
        default = "" if key in block.get("required", ()) else _default(value)
        meaning = DOCS.sub(r"[\g<0>](../\g<0>)", value.get("description", ""))
        rows.append(f"| `{key}` | {' or '.join(_takes(value))} | {default} | {meaning} |")
    return "\n".join(rows)


def _find_blocks(block: Schema, known: dict[str, Schema], prefix: str, places: dict[str, list[str]]) -> None:
    """Adds name of a block -> the places where it may stand, in the order of the keys, to ``places``."""
    for key, value in block["properties"].items():
        for below, name in _blocks(value):
            kind = known[name]["properties"].get("kind", {}).get("const")
            places.setdefault(name, []).append(f"{prefix}{key}{below}" + (f": {{kind: {kind}}}" if kind else ""))
            _find_blocks(known[name], known, f"{prefix}{key}{below}.", places)


def _blocks(value: Schema) -> Iterator[tuple[str, str]]:
    """(what follows the key, name) of each block that a key may hold."""
    if "$ref" in value:
        yield "", value["$ref"].rpartition("/")[2]
    for option in (*value.get("anyOf", ()), *value.get("oneOf", ())):
        yield from _blocks(option)
    inside = value.get("additionalProperties")
    if isinstance(inside, dict):
        names = value.get("propertyNames", {}).get("enum", ("name",))
        for below, name in _blocks(inside):
            yield f".<{' | '.join(names)}>{below}", name


def _takes(value: Schema) -> list[str]:
    """The kinds of value that a key takes, in words."""
    if "enum" in value:
        return [f"`{'null' if option is None else option}`" for option in value["enum"]]
    if "const" in value:
        return [f"`{value['const']}`"]
    if options := (*value.get("anyOf", ()), *value.get("oneOf", ())):
        return list(dict.fromkeys(text for option in options for text in _takes(option)))
    if "$ref" in value or value.get("type") == "object":
        return ["block"]
    if value.get("type") == "array":
        return ["list"]
    bounds = {"exclusiveMinimum": "> {}", "minimum": "≥ {}", "exclusiveMaximum": "< {}", "maximum": "≤ {}"}
    limits = [text.format(value[bound]) for bound, text in bounds.items() if bound in value]
    kind = {"null": "`null`", "boolean": "`true` or `false`", "string": "text"}.get(value["type"], str(value["type"]))
    return [", ".join([f"{kind} {limits[0]}", *limits[1:]] if limits else [kind])]


def _default(value: Schema) -> str:
    stated = value.get("default")
    return "" if isinstance(stated, dict) else f"`{stated}`" if isinstance(stated, str) else f"`{json.dumps(stated)}`"


def with_key_tables(text: str) -> str:
    """A Markdown text with what stands between ``<!-- keys of NAME -->`` and ``<!-- end -->`` made anew."""

    def made(found: re.Match[str]) -> str:
        name = found["name"]
        table = column_table(SHEETS[name]) if name in SHEETS else key_tables(FILES[name]).rstrip()
        return f"{found['begin']}\n\n{table}\n\n{found['end']}"

    return KEYS.sub(made, text)
