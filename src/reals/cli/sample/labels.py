"""The class of each image: ids or names given, or drawn."""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from reals.method import sampling
from reals.method.checkpoints import Checkpoint

REFERENCE_CLASSES = (207, 360, 387, 974, 88, 979, 417, 279)  # of DiT's and SiT's sample.py


def class_names(options: argparse.Namespace, checkpoint: Checkpoint) -> list[str] | None:
    """Names by class id: of the file given, or of the data behind one of our own runs."""
    classes = checkpoint.model.config.classes
    if options.class_names is not None:
        if not options.class_names.is_file():
            raise ValueError(f"--class-names {options.class_names}: no such file")
        names = options.class_names.read_text().splitlines()
        if len(names) != classes:
            raise ValueError(
                f"{options.class_names}: {len(names)} names, but {options.checkpoint} has {classes} classes; one name a line"
            )
        return names
    root, run = options.checkpoint.parent.parent.parent, options.checkpoint.parent
    spec = _json(run / "spec.json")
    data = _json(root / "latents" / str(spec.get("latents")) / "spec.json").get("data")
    names = _json(root / "data" / str(data) / "index.json").get("classes")
    return names if checkpoint.source == "ours" and names and len(names) == classes else None


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
        chosen = [_class(token.strip(), classes, names) for token in options.classes.split(",")]
    else:
        chosen = list(REFERENCE_CLASSES) if classes == 1000 else list(range(min(classes, 10)))
    return np.array(chosen * (options.n or 1)), len(chosen)


def _class(token: str, classes: int, names: list[str] | None) -> int:
    if token.isdigit() and int(token) < classes:
        return int(token)
    if token.isdigit():
        raise ValueError(f"--classes: got {token}, but the checkpoint has classes 0 to {classes - 1}")
    if names is None:
        raise ValueError(f"--classes: '{token}' is a name; give --class-names FILE (one name a line), or ids")
    found = [i for i, name in enumerate(names) if token.lower() in [p.strip().lower() for p in [name, *name.split(",")]]]
    if len(found) != 1:
        ids = f"that is classes {', '.join(map(str, found))}; give the id" if found else "no class has this name"
        raise ValueError(f"--classes: '{token}': {ids}")
    return found[0]


def described(options: argparse.Namespace, chosen: np.ndarray) -> str:
    """What fixes the class of image i for every i, whatever their number."""
    return "random" if options.random else "balanced" if options.balanced else ",".join(map(str, chosen))
