"""The class of each image: ids or names given, or drawn."""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from reals.method import sampling
from reals.method.checkpoints import Checkpoint
from reals.records import hub

REFERENCE_CLASSES = (207, 360, 387, 974, 88, 979, 417, 279)  # of DiT's and SiT's sample.py
SHOWN = 12  # classes in what is printed


def class_names(options: argparse.Namespace, checkpoint: Checkpoint) -> list[str] | None:
    """Names by class id: of the file given, or of the data behind one of our own runs."""
    classes = checkpoint.model.config.classes
    if options.class_names is not None:
        if not options.class_names.is_file():
            raise ValueError(f"--class-names {options.class_names}: no such file")
        names = options.class_names.read_text(encoding="utf-8-sig").splitlines()
        if len(names) != classes:
            raise ValueError(
                f"{options.class_names}: {len(names)} names, but {options.checkpoint} has {classes} classes; one name a line"
            )
        return names
    return own_names(options.checkpoint, checkpoint)


def own_names(path: Path, checkpoint: Checkpoint) -> list[str] | None:
    """Names by class id of one of our own runs: of the data behind it, or written beside it where it was shared."""
    run = path.absolute().parent
    root = run.parent.parent
    spec = _json(run / "spec.json")
    data = _json(root / "latents" / str(spec.get("latents")) / "spec.json").get("data")
    shared = (run / hub.NAMES).read_text().splitlines() if (run / hub.NAMES).is_file() else None
    names = shared or _json(root / "data" / str(data) / "index.json").get("classes")
    return names if checkpoint.source == "ours" and names and len(names) == checkpoint.model.config.classes else None


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def labels_of(options: argparse.Namespace, classes: int, names: list[str] | None) -> tuple[np.ndarray, int]:
    """(class of each image int64 [n], columns of a grid in which they look ordered)."""
    for option in ("random", "balanced", "n"):
        if getattr(options, option) is not None and getattr(options, option) < 1:
            raise ValueError(f"--{option}: got {getattr(options, option)}, expected at least 1")
    n = options.random or options.balanced
    if n:
        if options.n:
            raise ValueError("--n counts images of each of --classes; --random and --balanced take their own number")
        drawn = sampling.random_labels(options.seed, range(n), classes) if options.random else np.arange(n) % classes
        return drawn, math.ceil(math.sqrt(n))
    if options.classes is not None:
        chosen = _chosen(options.classes, classes, names)
    else:
        chosen = list(REFERENCE_CLASSES) if classes == 1000 else list(range(min(classes, 10)))
    return np.array(chosen * (options.n or 1)), len(chosen)


def _chosen(text: str, classes: int, names: list[str] | None) -> list[int]:
    """The classes of a list separated by commas; where a name holds commas itself, the longest name that fits is meant."""
    parts, chosen = [part.strip() for part in text.split(",")], []
    whole = {_plain(name) for name in names or []}
    while parts:
        taken = next((k for k in range(len(parts), 1, -1) if _plain(",".join(parts[:k])) in whole), 1)
        chosen.append(_class(", ".join(parts[:taken]), classes, names))
        parts = parts[taken:]
    return chosen


def _plain(name: str) -> str:
    """A name as it is compared: ImageNet's "tench, Tinca tinca" with one spelling of its commas."""
    return ",".join(part.strip() for part in name.lower().split(","))


def _class(token: str, classes: int, names: list[str] | None) -> int:
    """The class called ``token``, or with one of ``token`` as a synonym; "#5" is class number 5, as is "5" where no name is a number.

    Folders called 1 to 12 are classes 0 to 11, so a number alone would be drawn as another class than the one meant.
    """
    numbered = any(name.strip().isdigit() for name in names or [])
    digits = token.removeprefix("#")
    if digits.isdigit() and (token.startswith("#") or not numbered):
        if int(digits) < classes:
            return int(digits)
        raise ValueError(f"--classes: got {token}, but the checkpoint has classes 0 to {classes - 1}")
    if names is None:
        raise ValueError(f"--classes: '{token}' is a name; give --class-names FILE (one name a line), or ids")
    found = [i for i, name in enumerate(names) if _plain(token) == _plain(name)]
    found = found or [i for i, name in enumerate(names) if _plain(token) in _plain(name).split(",")]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"--classes: '{token}': that is classes {', '.join(map(str, found))}; give the id, as #{found[0]}")
    if token.isdigit():
        raise ValueError(
            f"--classes: no class is called {token}, and names here are numbers; class number {token} is written #{token}"
        )
    raise ValueError(f"--classes: '{token}': no class has this name")


def printed(chosen: np.ndarray, names: list[str] | None) -> str:
    """The distinct classes that are drawn, in order, by number and name."""
    distinct = list(dict.fromkeys(chosen.tolist()))
    shown = ", ".join(f"#{c}" + (f" {names[c]}" if names else "") for c in distinct[:SHOWN])
    return shown + (f" and {len(distinct) - SHOWN} more" if len(distinct) > SHOWN else "")


def described(options: argparse.Namespace, chosen: np.ndarray) -> str:
    """What fixes the class of image i for every i, whatever their number."""
    return "random" if options.random else "balanced" if options.balanced else ",".join(map(str, chosen))
