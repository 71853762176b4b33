"""Reading what people write: YAML files and sheets become checked models; each mistake is told in one line."""

import csv
import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+-]*(_[A-Za-z0-9.+-]+)*$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # the range that every generator takes, scikit-learn's among them


class ConfigError(ValueError):
    """A mistake in a sheet, a scale file or on the command line; the message is one line: where, what, what to do."""


class Strict(BaseModel):
    """A frozen model that refuses unknown keys, infinity and NaN.

    The docstring below a key is its description in the JSON Schema and in config/README.md (`schema`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_no_switches(cls, values: Any) -> Any:
        """What YAML reads yes, no, on and off as would pass for 1 and 0: as text it is refused like any other."""
        if not isinstance(values, Mapping):
            return values
        numbers = _numbers_of(cls)
        return {key: _spelled(value) if key in numbers else value for key, value in values.items()}


Model = TypeVar("Model", bound=Strict)


@cache
def _numbers_of(model: type[Strict]) -> frozenset[str]:
    """The keys of a model that take numbers, however deep in lists and mappings, and no switches."""
    found = set()
    for key, field in model.model_fields.items():
        inside: list[Any] = [field.annotation]
        for one in inside:
            inside += get_args(one)
        if (int in inside or float in inside) and bool not in inside:
            found.add(key)
    return frozenset(found)


def _spelled(value: Any) -> Any:
    """A switch as YAML's text, inside lists and mappings too."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return [_spelled(one) for one in value]
    return {key: _spelled(one) for key, one in value.items()} if isinstance(value, dict) else value


def dash_is_none(cell: Any) -> Any:
    """A cell as its model takes it: '-' is an empty one."""
    return None if cell == "-" else cell


def comma_separated(cell: Any) -> Any:
    """The parts of a cell such as ``0,1,2``; None where it is empty."""
    return [part.strip() for part in cell.split(",")] if isinstance(cell, str) and cell != "-" else dash_is_none(cell)


def unknown(value: str, known: Iterable[str], what: str) -> str:
    """The message for a name that nothing has: the nearest of the known ones, else all of them."""
    known = list(known)
    close = difflib.get_close_matches(value, known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
    return f"{what} '{value}' is not defined; {hint}"


def validate(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """``values`` as the model; ConfigError (one line that begins with ``where``) where they do not fit it."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first_error(error, model)}") from None


def _first_error(error: ValidationError, model: type[Strict]) -> str:
    """The most telling error as one line. An unknown key comes first: it may be a key misspelt that is then missed as well."""
    errors = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    first = errors[0]
    where = ".".join(str(p) for p in first["loc"])
    what = first["msg"].removeprefix("Value error, ")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if first["type"] == "extra_forbidden":
        *parent, key = first["loc"]
        missing = [str(e["loc"][-1]) for e in errors if e["type"] == "missing" and e["loc"][:-1] == first["loc"][:-1]]
        meant = difflib.get_close_matches(str(key), _keys(model, parent), n=1) or missing
        what = "unknown key" + (f"; did you mean '{meant[0]}'?" if meant else "")
    elif first["type"] == "union_tag_invalid":
        tags = re.findall("'([^']*)'", first["ctx"]["expected_tags"])
        key = first["ctx"]["discriminator"].strip("'")
        return unknown(first["ctx"]["tag"], tags, f"{where}.{key}:" if where else f"{key}:") + more
    elif first["type"] in ("int_parsing", "int_type", "int_from_float"):
        what = f"expected a whole number (got {first['input']!r})"
    elif first["type"] == "string_type":
        what = f"expected text (YAML reads {first['input']!r}); put what you mean in quotes"
    elif first["type"] not in ("missing", "value_error"):
        what += f" (got {first['input']!r})"
    return f"{where}: {what}{more}" if where else f"{what}{more}"


def _keys(annotation: Any, place: Sequence[int | str]) -> list[str]:
    """The keys of the models at a place (an error's ``loc``) inside what is annotated so; none where there is no model."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        fields = annotation.model_fields
        if not place:
            return list(fields)
        return _keys(fields[str(place[0])].annotation, place[1:]) if place[0] in fields else []
    inside = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _keys(inside[0], place)
    if get_origin(annotation) in (Union, UnionType):
        found: list[str] = []
        for member in inside:
            # The place of an error in a union of several kinds names the kind.
            kind = member.model_fields.get("kind") if isinstance(member, type) and issubclass(member, Strict) else None
            if kind is None:
                found += _keys(member, place)
            elif place and place[0] in get_args(kind.annotation):
                found += _keys(member, place[1:])
        return found
    return _keys(inside[-1], place[1:]) if inside and place else []


PLAIN_NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)")


class _UniqueKeyLoader(yaml.CSafeLoader):
    """Refuses a key that stands twice in one mapping, of which PyYAML would silently keep the last value and drop the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key '{key.value}' stands there twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _whole_number(loader: _UniqueKeyLoader, node: yaml.ScalarNode) -> int:
    """Refuses what YAML takes for a whole number in another base: 010 would be 8, and 1:30 would be 90."""
    return int(_as_written(node, loader.construct_yaml_int(node), PLAIN_NUMBER.fullmatch(node.value) is not None))


def _real_number(loader: _UniqueKeyLoader, node: yaml.ScalarNode) -> float:
    """Refuses 1:30.5, which YAML takes for minutes and seconds."""
    return _as_written(node, loader.construct_yaml_float(node), ":" not in node.value)


def _as_written(node: yaml.ScalarNode, value: float, same: bool) -> float:
    """The value, if it is the ``same`` number that stands there."""
    if not same:
        said = f"{node.value} would be read as {value}; write that, or put what you mean in quotes"
        raise yaml.MarkedYAMLError(problem=said, problem_mark=node.start_mark)
    return value


_UniqueKeyLoader.add_constructor("tag:yaml.org,2002:int", _whole_number)
_UniqueKeyLoader.add_constructor("tag:yaml.org,2002:float", _real_number)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; ConfigError names file and line."""
    try:
        content = yaml.load(_text(path), _UniqueKeyLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        why = " ".join(str(getattr(error, "problem", error)).split())
        raise ConfigError(f"{path}{line}: not valid YAML ({why})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected 'key: value' lines, found {type(content).__name__}")
    return content


def read(model: type[Model], path: Path) -> Model:
    """A YAML file as ``model``; ConfigError (one line) where it is not one."""
    return validate(model, read_yaml(path), str(path))


def read_sheet(path: Path) -> list[tuple[int, dict[str, str]]]:
    """(line number, row) of a tab-separated sheet; `#` lines are comments, cells are stripped."""
    lines = _text(path).splitlines()
    numbered = [(n, line) for n, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    if not numbered:
        raise ConfigError(f"{path}: the sheet is empty; it needs a header line")
    header = [h.strip() for h in numbered[0][1].split("\t")]
    if twice := [h for i, h in enumerate(header) if h in header[:i]]:
        raise ConfigError(f"{path} line {numbered[0][0]}: column '{twice[0]}' stands there twice; delete one")
    rows = []
    for (n, _), cells in zip(
        numbered[1:], csv.reader([line for _, line in numbered[1:]], delimiter="\t", quoting=csv.QUOTE_NONE), strict=True
    ):
        if len(cells) != len(header):
            raise ConfigError(
                f"{path} line {n}: {len(cells)} cells, but the header has {len(header)} "
                f"({', '.join(header)}); separate cells with one tab and write '-' for an empty one"
            )
        rows.append((n, {h: c.strip() for h, c in zip(header, cells, strict=True)}))
    return rows


def read_names(path: Path) -> dict[str, int]:
    """Name -> its line, of a file with one name a line, in composed Unicode; `#` lines are comments."""
    found: dict[str, int] = {}
    for n, line in enumerate(_text(path).splitlines(), 1):
        name = unicodedata.normalize("NFC", line.strip())
        if not name or name.startswith("#"):
            continue
        if name in found:
            raise ConfigError(f"{path} line {n}: '{name}' stands in line {found[name]} already; delete one")
        found[name] = n
    if not found:
        raise ConfigError(f"{path}: no name in it; write one a line")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # Windows' editors put a mark before the text
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path} line {line}: not UTF-8 text; save the file as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
