"""A folder of labelled images: which files count, their classes, and which are held out."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reals import rng
from reals.experiment.datasets import DataConfig
from reals.experiment.reading import ConfigError

SPLITS = ("train", "held_out")
EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
LITTER = {"__MACOSX", "@eaDir", "lost+found"}
TRAIN_NAMES = ("train", "training", "seg_train")
HELD_OUT_NAMES = ("held_out", "val", "valid", "validation", "test", "testing", "seg_test")
SMALLEST_SPLIT = 4  # precision and recall look at third neighbours


@dataclass(frozen=True)
class Listing:
    """Image files below a root with their labels, per split."""

    root: Path
    classes: list[str]
    paths: dict[str, list[str]]
    labels: dict[str, np.ndarray]


def listing_hash(listing: Listing, sizes: bool) -> str:
    """A hash of the relative file names (and sizes), per split: moving the folder keeps it, other files change it."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for path in listing.paths[split]:
            whole = listing.root / path
            size = whole.stat().st_size if sizes and whole.exists() else ""  # a dangling link is named when it is read
            digest.update(os.fsencode(f"{split}:{path}:{size}\n"))
    return digest.hexdigest()


def list_folder(config: DataConfig, seed: int) -> Listing:
    """Files of an ImageFolder (``<class>/<image>``, or that below train/ and val/). ConfigError where it is no data set."""
    if config.path is None:
        raise ConfigError("data.path: a folder source needs a path (one folder per class)")
    root = Path(config.path)
    if not root.is_dir():
        raise ConfigError(f"data.path: {root} is not a folder; give the path of an ImageFolder (one folder per class)")
    tops = _split_folders(root)
    if "held_out" not in tops and config.held_out is None:
        raise ConfigError(f"data.path: {root} has no train/ and val/ folders; set data.held_out (e.g. 0.1) to split it")
    classes = _classes(tops)
    paths: dict[str, list[str]] = {s: [] for s in SPLITS}
    labels: dict[str, list[int]] = {s: [] for s in SPLITS}
    for split, top in tops.items():
        for label, name in enumerate(classes):
            folder = top / name
            found = [os.path.relpath(path, root) for path in _image_files(folder)]
            if split == "train" and not found:
                raise ConfigError(f"data.path: {folder} holds no image ({', '.join(sorted(EXTENSIONS))})")
            found = found[: config.images_per_class]
            taken = {split: found}
            if "held_out" not in tops:
                assert config.held_out is not None  # refused above
                held = held_out_of_class(len(found), config.held_out, seed, label)
                taken = {
                    "train": [p for p, h in zip(found, held, strict=True) if not h],
                    "held_out": [p for p, h in zip(found, held, strict=True) if h],
                }
            for part, some in taken.items():
                paths[part] += some
                labels[part] += [label] * len(some)
    _refuse_unexpected(config, root, tops, classes, {split: len(paths[split]) for split in SPLITS})
    return Listing(root, classes, paths, {s: np.array(labels[s], np.int64) for s in SPLITS})


def _classes(tops: dict[str, Path]) -> list[str]:
    """The class folders of the training split, at least two; ConfigError where the held-out split has others."""
    classes = _class_folders(tops["train"])
    if not classes:
        with os.scandir(tops["train"]) as entries:
            loose = any(entry.is_file() and Path(entry.name).suffix.lower() in EXTENSIONS for entry in entries)
        state = "holds images but no class folders" if loose else "is empty"
        raise ConfigError(f"data.path: {tops['train']} {state}; put each class's images in a folder of its own")
    if len(classes) < 2:
        raise ConfigError(
            f"data.path: {tops['train']} has one class ('{classes[0]}'); class-conditional training needs at least two"
        )
    if "held_out" in tops and (extra := set(_class_folders(tops["held_out"])) - set(classes)):
        raise ConfigError(f"data.path: {tops['held_out']} has class '{sorted(extra)[0]}', which {tops['train']} lacks")
    return classes


def _refuse_unexpected(config: DataConfig, root: Path, tops: dict[str, Path], classes: list[str], counts: dict[str, int]) -> None:
    """ConfigError where a split is too small to measure with, or there are not as many classes and images as the scale says."""
    for split in SPLITS:
        if counts[split] < SMALLEST_SPLIT:
            raise ConfigError(
                f"data.path: {root} leaves {counts[split]} images for the {split} split, at least {SMALLEST_SPLIT} are needed; "
                f"add images" + ("" if "held_out" in tops else " or raise data.held_out")
            )
    if config.expected_classes is not None and len(classes) != config.expected_classes:
        raise ConfigError(f"data.path: {tops['train']} has {len(classes)} classes, {config.expected_classes} expected")
    if config.expected_images is not None and counts["train"] != config.expected_images:
        raise ConfigError(f"data.path: {tops['train']} has {counts['train']} images, {config.expected_images} expected")
    if config.expected_held_out is not None and counts["held_out"] != config.expected_held_out:
        raise ConfigError(
            f"data.path: {tops.get('held_out', root)} has {counts['held_out']} held-out images, {config.expected_held_out} expected"
        )


def held_out_of_class(n: int, share: float, seed: int, label: int) -> np.ndarray:
    """Which of a class's n images (in order of name) are held out: a fixed random ``share``, at least one of two."""
    chosen = np.zeros(n, bool)
    count = min(n - 1, max(1, round(n * share)))
    chosen[rng.permutation(seed, "held-out", label, n=n)[:count]] = True
    return chosen


def _split_folders(root: Path) -> dict[str, Path]:
    """Where a split's class folders are: below train/ and val/ under any customary spelling, or the root itself."""
    named = {entry.name.lower(): Path(entry.path) for entry in os.scandir(root) if entry.is_dir()}
    train = next((named[name] for name in TRAIN_NAMES if name in named), None)
    held_out = next((named[name] for name in HELD_OUT_NAMES if name in named), None)
    if train is None or not _class_folders(train):
        return {"train": root}
    return {"train": train} | ({"held_out": held_out} if held_out else {})


def _class_folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not _litter(entry.name))


def _litter(name: str) -> bool:
    """What file managers and archives leave behind, hidden files among it."""
    return name.startswith(".") or name in LITTER


def _image_files(folder: Path) -> list[str]:
    """Image files below a class's folder, however deep, in order of name; links are followed, each real folder once."""
    found, seen = [], set()
    for base, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(base)
        folders[:] = [] if real in seen else sorted(name for name in folders if not _litter(name))
        if real not in seen:
            found += [os.path.join(base, n) for n in names if Path(n).suffix.lower() in EXTENSIONS and not _litter(n)]
        seen.add(real)
    return sorted(found)
