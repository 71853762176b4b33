"""The model card of a shared network: YAML for the hub, then what it is, how it is used, what made it, and what was measured how."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from reals.experiment.metric_table import METRICS
from reals.report.results import Result

TAGS = {"autoencoder": ["autoencoder", "vae"], "transformer": ["latent-diffusion", "class-conditional-image-generation"]}
LIBRARY = {"autoencoder": "diffusers", "transformer": "reals"}
NAMED_BY = "feature extractor"  # the key of a protocol that says whose features a metric is on


def card(
    kind: str, title: str, licence: str, what: Sequence[str], use: str, made: Mapping[str, Any], measured: Sequence[Result]
) -> str:
    """README.md of a ``kind`` (autoencoder or transformer).

    ``what`` are sentences that say what it is, ``use`` is code, ``made`` the record of its making (the command, the sheet's row,
    packages; {} where there is none), ``measured`` the metrics files of these very weights.
    """
    head = {"license": licence, "library_name": LIBRARY[kind], "tags": ["reals", *TAGS[kind]]}
    parts = [f"---\n{yaml.safe_dump(head, sort_keys=False)}---", f"# {title}", " ".join(what), f"## Use\n\n{use}"]
    parts.append("## What made it\n\n" + _making(made))
    parts.append("## Measured\n\n" + ("\n\n".join(map(_measured, measured)) or "Nothing was measured on these weights."))
    return "\n\n".join(parts) + "\n"


def checked_head(text: str, where: str) -> dict[str, Any]:
    """The YAML at the head of a card. ValueError where it is not there or does not say licence, library and tags."""
    _, *rest = text.split("---\n", 2) if text.startswith("---\n") else [text]
    head: dict[str, Any] = {}
    try:
        read = yaml.safe_load(rest[0]) if len(rest) == 2 else None
        head = read if isinstance(read, dict) else {}
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: the YAML at its head is damaged ({' '.join(str(error).split())})") from None
    missing = [key for key in ("license", "library_name", "tags") if not head.get(key)]
    if missing:
        raise ValueError(f"{where}: the card does not say {', '.join(missing)} at its head")
    return head


def _making(made: Mapping[str, Any]) -> str:
    if not made:
        return "There is no record of its making beside these weights."
    lines = [f"```bash\n{made['command']}\n```"] if "command" in made else []
    if row := made.get("row"):
        lines.append("Its row: " + ", ".join(f"{key} {_plain(value)}" for key, value in row.items()) + ".")
    for attempt in made.get("attempts", [])[-1:]:
        lines.append(f"Made by code {attempt['code']} on {attempt['device']}, {attempt['began']}.")
    packages = ", ".join(f"{name} {version}" for name, version in made.get("packages", {}).items() if version)
    return "\n\n".join([*lines, f"Python {made.get('python', 'unknown')}, {packages}."])


def _measured(result: Result) -> str:
    """A metrics file as a table, with its whole protocol below: a number without it says nothing."""
    extractor = str(result["protocol"].get(NAMED_BY, ""))
    rows = [f"| {_printed(key, extractor)} | {value + 0.0:.4g} |" for key, value in result["values"].items()]
    protocol = [f"- {key}: {value}" for key, value in result["protocol"].items()]
    return "\n".join([f"**{result['kind']} `{result['name']}`**", "", "| metric | value |", "|---|---|", *rows, "", *protocol])


def _printed(key: str, extractor: str) -> str:
    metric = METRICS.get(key)
    if metric is None:
        return key
    return f"{metric.printed} ({extractor})" if metric.of_extractor and extractor else metric.printed


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
