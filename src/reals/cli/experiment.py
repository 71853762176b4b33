"""Which experiment a command is about: `--config scale=... data=...`, as for `snakemake`."""

import argparse
from pathlib import Path

from reals.experiment import rehearsal
from reals.experiment.config import ConfigError, Experiment, load, read_yaml

KEYS = ("scale", "data", "seed", "rehearsal", "site")


def add_experiment(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--config", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="as for snakemake: scale=imagenet256, data=/path/to/images (without: what config/config.yaml says)",
    )  # fmt: skip
    p.add_argument("--sheets", type=Path, default=Path("config"), help="the folder of the sheets (config)")


def _given(options: argparse.Namespace) -> dict:
    """config.yaml with the command line's keys over it; ConfigError (one line) for a key nobody knows."""
    default = options.sheets / "config.yaml"
    given = read_yaml(default) if default.exists() else {}
    for entry in options.config:
        key, equals, value = entry.partition("=")
        if not equals or key not in KEYS:
            raise ConfigError(f"--config {entry}: expected KEY=VALUE with a key of {', '.join(KEYS)}")
        given[key] = value
    return given


def site_file_of(options: argparse.Namespace) -> Path:
    return Path(_given(options).get("site") or options.sheets / "site.yaml")


def experiment_of(options: argparse.Namespace) -> Experiment:
    """ConfigError (one line) for a key nobody knows and for mistakes in sheets or scale."""
    given = _given(options)
    if "scale" not in given:
        raise ConfigError(f"{options.sheets / 'config.yaml'} names no scale; pass --config scale=<name>")
    data = given.get("data")
    seed = given.get("seed")
    if seed is not None and not str(seed).isdecimal():
        raise ConfigError(f"--config seed={seed}: expected a whole number")
    rehearsed = rehearsal.rehearse if rehearsal.wanted(given.get("rehearsal", False)) else None
    return load(
        str(given["scale"]), data=None if data is None else str(data), seed=None if seed is None else int(seed),
        folder=options.sheets, rehearse=rehearsed,
    )  # fmt: skip
