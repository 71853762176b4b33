"""The class of each image: ids or names given, or drawn."""

import argparse
import math
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

from reals import files
from reals.method import checkpoints, sampling
from reals.method.checkpoints import Checkpoint
from reals.records import hub

REFERENCE_CLASSES = (207, 360, 387, 974, 88, 979, 417, 279)  # of DiT's and SiT's sample.py
SHOWN = 12  # classes in what is printed
NUMBER = re.compile(r"[-+.]?[0-9]")


def class_names(options: argparse.Namespace, checkpoint: Checkpoint) -> list[str] | None:
    """Names by class id: of the file given, or of the data behind one of our own runs."""
    classes = checkpoint.model.config.classes
    if options.class_names is not None:
        if not options.class_names.is_file():
            raise ValueError(f"--class-names {options.class_names}: no such file")
        try:
            names = options.class_names.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise ValueError(f"--class-names {options.class_names}: not UTF-8 text; save the file as UTF-8") from None
        if len(names) != classes:
            raise ValueError(
                f"{options.class_names}: {len(names)} names, but {options.checkpoint} has {classes} classes; one name a line"
            )
        return names
    return own_names(options.checkpoint, checkpoint)


def own_names(path: Path, checkpoint: Checkpoint) -> list[str] | None:
    """Names by class id of one of our own runs: of the data behind it, or written beside it where it was shared."""
    for run in checkpoints.homes(path):
        root = run.parent.parent
        spec = _json(run / "spec.json")
        data = _json(root / "latents" / str(spec.get("latents")) / "spec.json").get("data")
        shared = (run / hub.NAMES).read_text(encoding="utf-8-sig").splitlines() if (run / hub.NAMES).is_file() else None
        names = shared or _json(root / "data" / str(data) / "index.json").get("classes")
        if checkpoint.source == "ours" and names and len(names) == checkpoint.model.config.classes:
            return list(names)
    return None


def _json(path: Path) -> dict[str, Any]:
    return dict(files.read_json(path)) if path.is_file() else {}


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
    """The classes of a list separated by commas. Where a name holds commas itself, the longest name that fits is meant, and several of
    its synonyms in a row are one mention of it."""
    parts, chosen = [part.strip() for part in text.split(",")], []
    whole = {_plain(name) for name in names or []}
    mentioned: tuple[int, set[str]] = -1, set()
    while parts:
        taken = next((k for k in range(len(parts), 1, -1) if _plain(",".join(parts[:k])) in whole), 1)
        token = ", ".join(parts[:taken])
        number, plain = _class(token, classes, names), _plain(token)
        synonym = _is_synonym(plain, number, names)
        if synonym and mentioned[0] == number and plain not in mentioned[1]:
            mentioned[1].add(plain)
        else:
            chosen.append(number)
            mentioned = (number, {plain}) if synonym else (-1, set())
        parts = parts[taken:]
    return chosen


def _is_synonym(plain: str, number: int, names: list[str] | None) -> bool:
    """Whether a class is called so and otherwise too: ImageNet's "great white shark, white shark, man-eater"."""
    return names is not None and plain != _plain(names[number]) and plain in _plain(names[number]).split(",")


def _plain(name: str) -> str:
    """A name as it is compared: ImageNet's "tench, Tinca tinca" with one spelling of its commas, in one case and Unicode form."""
    return ",".join(part.strip() for part in unicodedata.normalize("NFC", name).casefold().split(","))


def _class(token: str, classes: int, names: list[str] | None) -> int:
    """The class called ``token``, or with one of ``token`` as a synonym; "#5" is class number 5, as is "5" where no name begins with
    a number.

    Folders called 1 to 12 are classes 0 to 11, and "0-4", "5-9" ages, so a number alone would be drawn as another class than meant.
    """
    numbered = any(NUMBER.match(name.strip()) for name in names or [])
    digits = token.removeprefix("#")
    if digits.isascii() and digits.isdigit() and (token.startswith("#") or not numbered):
        if any(name.strip() == token and i != int(digits) for i, name in enumerate(names or [])):
            raise ValueError(
                f"--classes: {token} is class number {digits}, and the name of another; give other names by --class-names"
            )
        if int(digits) < classes:
            return int(digits)
        raise ValueError(f"--classes: got {token}, but the checkpoint has classes 0 to {classes - 1}")
    if names is None:
        raise ValueError(f"--classes: '{token}' is a name; give --class-names FILE (one name a line), or ids")
    exact = unicodedata.normalize("NFC", token)  # names may differ in case alone: a and A
    found = [i for i, name in enumerate(names) if unicodedata.normalize("NFC", name.strip()) == exact]
    found = found or [i for i, name in enumerate(names) if _plain(token) == _plain(name)]
    found = found or [i for i, name in enumerate(names) if _plain(token) in _plain(name).split(",")]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"--classes: '{token}': that is classes {', '.join(map(str, found))}; give the id, as #{found[0]}")
    if NUMBER.match(token):
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
