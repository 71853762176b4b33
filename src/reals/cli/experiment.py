"""Which experiment a command is about: `--config scale=... data=...`, as for `snakemake`, and `--sheets FOLDER`."""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reals.experiment import rehearsal
from reals.experiment.load import Experiment, load
from reals.experiment.reading import ConfigError, read_yaml
from reals.experiment.registry import Registry
from reals.experiment.scale import Scale

KEYS = ("scale", "data", "seed", "rehearsal", "site")
TEXT = ("scale", "data", "site")  # names and paths
ENTRY = re.compile(r"[A-Za-z_]\w*=")


def add_experiment(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--config", action="append", default=[], metavar="KEY=VALUE",
        help="as for snakemake, one or several: scale=imagenet256 data=/path/to/images seed=1 rehearsal=true "
        "(without: what config/config.yaml says)",
    )  # fmt: skip
    add_sheets(p)


def add_sheets(p: argparse.ArgumentParser) -> None:
    p.add_argument("--sheets", type=Path, default=Path("config"), metavar="FOLDER", help="the folder of the sheets (config)")


def one_each(arguments: list[str]) -> list[str]:
    """`--config a=1 b=2 id` as `--config a=1 --config b=2 id`: left to itself, argparse would take the id for an entry too.

    ConfigError where no entry follows `--config`.
    """
    spread: list[str] = []
    left = list(arguments)
    while left:
        spread.append(left.pop(0))
        if spread[-1] == "--":
            return spread + left
        if spread[-1].startswith("--config="):
            entry(spread[-1].removeprefix("--config="))
        elif spread[-1] == "--config" and left:
            entry(left[0])
            spread.append(left.pop(0))
        else:
            continue
        while left and ENTRY.match(left[0]):
            spread += ["--config", left.pop(0)]
    return spread


def entry(text: str) -> tuple[str, str]:
    """(key, value) of "key=value", as it was typed. ConfigError (one line) for a key nobody knows, or no value."""
    key, equals, value = text.partition("=")
    if not equals or key not in KEYS:
        raise ConfigError(f"--config {text}: expected KEY=VALUE with a key of {', '.join(KEYS)}{_elsewhere(key)}")
    if not value:  # an empty `data` would name the current folder
        raise ConfigError(f"--config {text}: no value; write one, or leave {key} out")
    return key, value


def _elsewhere(key: str) -> str:
    """Where a key belongs that is none of `--config`'s."""
    block = key.partition(".")[0]
    return (
        f"; {key} is a setting of the scale: write it into its file, config/scales/<scale>.yaml"
        if block in Scale.model_fields
        else ""
    )


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """config.yaml with the command line's keys over it; ConfigError (one line) for a key nobody knows."""
    default = options.sheets / "config.yaml"
    stated = read_yaml(default) if default.exists() else {}
    return stated | dict(entry(text) for text in options.config)


def site_file_of(options: argparse.Namespace) -> Path:
    return Path(_given(options).get("site") or options.sheets / "site.yaml")


def experiment_of(options: argparse.Namespace, **instead: str) -> Experiment:
    """With other values of some keys ``instead``. ConfigError (one line) for a key nobody knows and for mistakes in sheets or scale."""
    return experiment_from(_given(options) | instead, options.sheets)


def registry_of(options: argparse.Namespace) -> Registry:
    return Registry(experiment_of(options))


def experiment_from(stated: Mapping[str, Any], sheets: Path = Path("config")) -> Experiment:
    """The experiment of `--config`'s keys: text from a command line, or what YAML made of a config file's.

    ConfigError (one line) for a name or path that YAML did not take for text: what was written is lost, 0042 is 34.
    """
    for key, value in stated.items():
        if key not in KEYS:
            raise ConfigError(f"--config {key}: unknown key; known: {', '.join(sorted(KEYS))}{_elsewhere(key)}")
        if key in TEXT and not isinstance(value, str | None):
            raise ConfigError(
                f'the config file\'s {key} was read as {value!r}, which is no text; put what you mean in quotes, e.g. {key}: "0042"'
            )
        if key in TEXT and value is not None and not value.strip():  # an empty path is the current folder
            raise ConfigError(f"{key} has no value; write one, or leave {key} out")
    if stated.get("scale") is None:
        raise ConfigError(f"{sheets / 'config.yaml'} names no scale; pass --config scale=<name>")
    data, seed = stated.get("data"), stated.get("seed")
    if seed is not None and not (str(seed).isascii() and str(seed).isdecimal()):
        raise ConfigError(f"--config seed={seed}: expected a whole number")
    return load(
        stated["scale"], data=data, seed=None if seed is None else int(seed),
        folder=sheets, rehearse=rehearsal.rehearse if rehearsal.wanted(stated.get("rehearsal", False)) else None,
    )  # fmt: skip
