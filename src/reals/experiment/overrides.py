"""What a command line changes in a scale (images, seeds), and how to say the same again."""

import re
from pathlib import Path
from typing import Any

from reals.experiment.reading import ConfigError
from reals.experiment.scale import Seeds

LONGEST_NAME = 150  # of 255 bytes that a file's name may have: ids, locks and unfinished files add to it
OWN_DATA_HELD_OUT = 0.1  # share of each class, where a folder given on the command line has no split of its own


def settings(scale: str, data: str | None, seed: int | None, rehearsal: bool) -> tuple[str, ...]:
    """What --config takes to mean these choices again, of `reals` and of snakemake."""
    stated = {"scale": scale, "rehearsal": "true" if rehearsal else None, "data": data, "seed": seed}
    return tuple(f"{key}={value}" for key, value in stated.items() if value is not None)


def with_images(values: dict[str, Any], folder: str) -> dict[str, Any]:
    """A scale's values with the images of an ImageFolder in place of its own.

    The folder's name becomes the data set's name and part of the scale's, so that its results never mix with those of
    other data. What the scale states of its own images (counts, reference, drawn masks) does not hold of others and goes; a list of
    classes stays for a folder that has them.
    """
    given = _block(values, "data")
    name = re.sub(r"[^A-Za-z0-9.+-]+", "-", Path(folder).resolve().name).strip("-.") or "images"
    if len(name) > LONGEST_NAME:
        raise ConfigError(
            f"data={folder}: results are named after the folder, and {len(name)} characters are too many; rename it"
        )
    sizes = values.get("name")
    changed = values | {
        "name": f"{sizes}_{name}",
        "paper": False,
        "description": f"the sizes of scale {sizes} on the images of {name}",
        "data": given | {
            "source": "folder", "path": folder, "name": name, "held_out": given.get("held_out") or OWN_DATA_HELD_OUT,
            "expected_classes": None, "expected_images": None, "expected_held_out": None, "unlisted": "all",
        },
    }  # fmt: skip
    if isinstance(values.get("evaluation"), dict):
        changed["evaluation"] = values["evaluation"] | {"reference": None}
    if _block(values, "downstream").get("target") == "ink":
        changed["downstream"] = values["downstream"] | {"target": "foreground"}
    return changed


def with_seed(values: dict[str, Any], seed: int) -> dict[str, Any]:
    """A scale's values with all its seeds this one, but that of the data's split: repeats differ in training and sampling alone."""
    return values | {"seeds": _block(values, "seeds") | dict.fromkeys(Seeds.model_fields.keys() - {"data"}, seed)}


def _block(values: dict[str, Any], key: str) -> dict[str, Any]:
    """A block of a scale file that is not validated yet; {} where it is none."""
    return values[key] if isinstance(values.get(key), dict) else {}
