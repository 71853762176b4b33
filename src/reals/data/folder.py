"""A folder of labelled images: which files count, their classes, and which are held out."""

import difflib
import hashlib
import os
import unicodedata
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reals import rng
from reals.data import image_files
from reals.data.image_files import Found
from reals.experiment.datasets import DataConfig
from reals.experiment.reading import ConfigError, read_names

SPLITS = ("train", "held_out")
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
    left_out: str | None = None  # what lies there too and is not taken, in one line


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
    classes, folders = _classes(tops, config)
    left_out = _beside(root, tops)
    paths: dict[str, list[str]] = {s: [] for s in SPLITS}
    labels: dict[str, list[int]] = {s: [] for s in SPLITS}
    for split, top in tops.items():
        for label, name in enumerate(classes):
            if name not in folders[split]:
                continue
            folder = top / folders[split][name]
            try:
                here = image_files.below(folder)
            except ValueError as error:
                raise ConfigError(f"data.path: {error}") from None
            left_out.leaves_out(here)
            if split == "train" and not here.names:
                raise ConfigError(f"data.path: {folder} holds no image" + (f"; {here.left_out}" if here.left_out else ""))
            inside = os.path.relpath(folder, root)
            found = sorted(os.path.join(inside, image) for image in here.names)[: config.images_per_class]
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
    if image_files.chunked(os.path.relpath(root / path, tops["train"]) for path in paths["train"]):
        raise ConfigError(
            f"data.path: the folders of {tops['train']} are chunks of numbered images (EDM's layout), not classes; "
            "put each class's images in a folder of its own"
        )
    _refuse_unexpected(config, root, tops, classes, {split: len(paths[split]) for split in SPLITS}, left_out)
    return Listing(root, classes, paths, {s: np.array(labels[s], np.int64) for s in SPLITS}, left_out.left_out)


def _classes(tops: dict[str, Path], config: DataConfig) -> tuple[list[str], dict[str, dict[str, str]]]:
    """The class folders of the training split (those listed), at least two, and by split each class's folder.

    File systems write one name in two Unicode forms (macOS decomposes accents): such folders are one class. ConfigError where
    one split has both, and where the held-out split has other classes, or images outside of any.
    """
    folders = {split: _class_folders(top) for split, top in tops.items()}
    if not folders["train"]:
        raise ConfigError(f"data.path: {tops['train']} {_flat(tops['train'])}; put each class's images in a folder of its own")
    if "held_out" in tops and not folders["held_out"]:
        what = "them" if _files(tops["held_out"]).names else "its images"
        raise ConfigError(
            f"data.path: {tops['held_out']} {_flat(tops['held_out'])}; put {what} in folders of the names "
            f"that {tops['train']} has ('{folders['train'][0]}', ...), or move it away and set data.held_out (e.g. 0.1)"
        )
    if config.class_list is not None:
        folders = _listed(config, Path(config.class_list), tops, folders)
    classes = folders["train"]
    if len(classes) < 2:
        raise ConfigError(
            f"data.path: {tops['train']} has one class ('{classes[0]}'); class-conditional training needs at least two"
        )
    _refuse_one_twice([top / name for split, top in tops.items() for name in folders[split]])
    by_form = {split: {unicodedata.normalize("NFC", name): name for name in found} for split, found in folders.items()}
    for split, found in folders.items():
        if twice := set(found) - set(by_form[split].values()):
            raise ConfigError(
                f"data.path: {tops[split]} has '{min(twice)}' twice, in two Unicode forms; put their images together"
            )
    if "held_out" in tops:
        if extra := set(by_form["held_out"]) - set(by_form["train"]):
            raise ConfigError(f"data.path: {tops['held_out']} has class '{min(extra)}', which {tops['train']} lacks")
    return classes, {
        split: {by_form["train"][form]: name for form, name in found.items()} for split, found in by_form.items()
    }  # fmt: skip


def _refuse_one_twice(places: list[Path]) -> None:
    """ConfigError where two class folders are one by way of links: an image has one class, and is trained on or held out."""
    seen: dict[str, Path] = {}
    for place in places:
        first = seen.setdefault(os.path.realpath(place), place)
        if first != place:
            raise ConfigError(
                f"data.path: {first} and {place} are one folder; an image is of one class and one split, so remove one"
            )


def _listed(config: DataConfig, file: Path, tops: dict[str, Path], folders: dict[str, list[str]]) -> dict[str, list[str]]:
    """By split, the folders of the classes that the scale's ``file`` lists. ConfigError naming the first that a split lacks."""
    listed = read_names(file)
    forms = {split: {unicodedata.normalize("NFC", name) for name in found} for split, found in folders.items()}
    if config.unlisted == "all" and not forms["train"] & listed.keys():
        return folders
    for split, found in forms.items():
        if missing := [name for name in listed if name not in found]:
            more = f" ({len(missing)} of the {len(listed)} listed are missing)" if len(missing) > 1 else ""
            close = difflib.get_close_matches(missing[0], found - listed.keys(), n=1, cutoff=0.8)
            advice = f"did you mean '{close[0]}'?" if close else "add its folder, or take it off the list"
            raise ConfigError(
                f"data.class_list: {file} line {listed[missing[0]]}: {tops[split]} has no class '{missing[0]}'{more}; {advice}"
            )
    return {split: [name for name in found if unicodedata.normalize("NFC", name) in listed] for split, found in folders.items()}


def _files(folder: Path) -> Found:
    """What lies in a folder itself."""
    found = Found()
    with os.scandir(folder) as entries:
        found.add("", [entry.name for entry in entries if not image_files.is_folder(entry)])
    return found


def _flat(folder: Path) -> str:
    """What is wrong with a folder that holds no class folders."""
    found = _files(folder)
    if found.names:
        return "holds images but no class folders"
    return f"holds no class folders; {found.left_out}" if found.left_out else "is empty"


def _beside(root: Path, tops: dict[str, Path]) -> Found:
    """What lies beside the class folders: images of no class, hidden folders, other files."""
    left_out = Found()
    for folder in {root, *tops.values()}:
        here = _files(folder)
        left_out.leaves_out(here)
        left_out.loose += len(here.names)
        with os.scandir(folder) as entries:
            hidden = [entry.name for entry in entries if image_files.is_litter(entry.name) and image_files.is_folder(entry)]
        for name in hidden:
            with suppress(ValueError):  # a hidden folder may be its owner's alone
                inside = image_files.below(folder / name)
                left_out.hidden[name] += len(inside.names) + inside.hidden.total()
    left_out.hidden += Counter()  # without those that hold none
    return left_out


def _refuse_unexpected(
    config: DataConfig, root: Path, tops: dict[str, Path], classes: list[str], counts: dict[str, int], left_out: Found
) -> None:
    """ConfigError where a split is too small to measure with, or there are not as many classes and images as the scale says."""
    for split in SPLITS:
        if counts[split] < SMALLEST_SPLIT:
            raise ConfigError(
                f"data.path: {root} leaves {counts[split]} images for the {split} split, at least {SMALLEST_SPLIT} are needed; "
                f"add images"
                + ("" if "held_out" in tops else " or raise data.held_out")
                + (f" ({left_out.left_out})" if left_out.left_out else "")
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
    """Where a split's class folders are: below train/ and val/ under any customary spelling, or the root itself.

    ConfigError where train/ has no class folders and only held-out folders stand beside it: these are no classes.
    """
    named = {name.lower(): root / name for name in _class_folders(root)}
    train = next((named[name] for name in TRAIN_NAMES if name in named), None)
    held_out = next((named[name] for name in HELD_OUT_NAMES if name in named), None)
    if train is None:
        return {"train": root}
    if not _class_folders(train):
        beside = named.keys() - {train.name.lower()}
        if beside and all(name.rstrip("0123456789") in HELD_OUT_NAMES for name in beside):
            raise ConfigError(
                f"data.path: {train} {_flat(train)}, and '{min(beside)}' beside it is no class; put each class's images in a folder "
                "of its own"
            )
        return {"train": root}
    return {"train": train} | ({"held_out": held_out} if held_out else {})


def _class_folders(root: Path) -> list[str]:
    """The names of the folders in ``root``, hidden ones left out. ConfigError where a link that may have been one leads nowhere."""
    with os.scandir(root) as entries:
        there = [entry for entry in entries if not image_files.is_litter(entry.name)]
    for entry in there:
        if image_files.is_dead(entry):
            raise ConfigError(f"data.path: {entry.path} is a link that leads nowhere; mount or mend what it led to, or remove it")
    return sorted(entry.name for entry in there if image_files.is_folder(entry))
