"""Which files below a folder, or in an archive, are images: one rule for what is trained on and for what is measured."""

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath

from PIL import Image

LITTER = {"__MACOSX", "@eaDir", "@Recycle", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
NO_PIXELS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow recognises and cannot decode, or only by a program that is not part of it."""
NAMED = 3  # folders and suffixes in a note


@dataclass
class Found:
    """Image files by path below where they were looked for, and what was left out.

    ``hidden`` counts images among hidden files and what file managers and archives leave behind, by folder or file;
    ``other`` counts files that are no images by their suffix, by suffix; ``again`` names links to folders that are read under another
    name, ``dead`` links that lead nowhere, which may have been folders; ``loose`` counts images in no folder of a class.
    """

    names: list[str] = field(default_factory=list)
    hidden: Counter[str] = field(default_factory=Counter)
    other: Counter[str] = field(default_factory=Counter)
    again: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    loose: int = 0

    def add(self, folder: str, names: Iterable[str]) -> None:
        """Sorts the files of one folder, whose path ends in a slash, or is empty. Data sets have millions of them."""
        litter, known = _litter(folder), suffixes()
        for name in names:
            suffix = _suffix(name)
            hidden = litter or (name if is_litter(name) else None)
            if suffix not in known:
                if hidden is None:
                    self.other[suffix or name] += 1
            elif hidden is not None:
                self.hidden[hidden] += 1
            else:
                self.names.append(folder + name)

    @property
    def left_out(self) -> str | None:
        """What was left out and why, in one line; None where all was taken."""
        parts = []
        if self.hidden:
            parts.append(f"{_count(self.hidden, 'image')} hidden or left by a file manager ({_some(self.hidden)})")
        if self.other:
            parts.append(f"{_count(self.other, 'file')} of no image format ({_some(self.other)})")
        if self.again:
            parts.append(f"{_count(self.again, 'link')} to folders that are read already ({_some(self.again)})")
        if self.dead:
            parts.append(
                f"{_count(self.dead, 'link')} that lead{'' if self.dead.total() > 1 else 's'} nowhere ({_some(self.dead)})"
            )
        if self.loose:
            parts.append(f"{self.loose:,} image{'s' * (self.loose > 1)} in no class folder")
        return f"left out: {' and '.join(parts)}" if parts else None

    def leaves_out(self, other: "Found") -> None:
        """Counts what ``other`` left out here too."""
        for mine, its in (
            (self.hidden, other.hidden),
            (self.other, other.other),
            (self.again, other.again),
            (self.dead, other.dead),
        ):
            mine += its


@cache
def suffixes() -> frozenset[str]:
    """Lower-case file suffixes of every format that Pillow decodes."""
    Image.init()
    kinds = (Image.OPEN.keys() | {"MPO"}) - NO_PIXELS  # an MPO is opened as a JPEG
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in kinds)


def is_litter(name: str) -> bool:
    """Whether a file or folder is hidden, or what file managers and archives leave behind."""
    return name.startswith(".") or name in LITTER


def below(folder: Path) -> Found:
    """The images below ``folder``, however deep, by relative path in no order; links are followed, each real folder once.

    Hidden folders come last, so that one that leads to a folder with a name does not stand in its place. ValueError where a folder
    that is not hidden cannot be listed.
    """
    found, seen = Found(), set[str]()
    waiting, hidden = [""], list[str]()
    while waiting or hidden:
        inside = waiting.pop() if waiting else hidden.pop()
        here = os.path.join(folder, inside)
        real = os.path.realpath(here)
        if real in seen:
            circle = f"{os.path.realpath(os.path.dirname(here.rstrip('/')))}/".startswith(f"{real}/")
            if not circle and _litter(inside) is None:
                found.again[inside.rstrip("/")] += 1
            continue
        seen.add(real)
        folders, files = _listed(here, found, hidden=_litter(inside) is not None)
        found.add(inside, files)
        for name in folders:  # of two ways to one real folder the same is taken everywhere
            (hidden if is_litter(name) or _litter(inside) else waiting).append(f"{inside}{name}/")
    return found


def _listed(here: str, found: Found, hidden: bool) -> tuple[list[str], list[str]]:
    """(folders, the last first; files) of one folder; a link that leads nowhere and may have been a folder goes to ``found.dead``."""
    try:
        with os.scandir(here) as entries:
            there = sorted(entries, key=lambda entry: entry.name, reverse=True)
    except OSError as error:
        if hidden:
            return [], []
        raise ValueError(f"{here.rstrip('/')}: cannot be listed ({error.strerror}); allow it, or move it away") from None
    folders, files = [], []
    for entry in there:
        if is_folder(entry):
            folders.append(entry.name)
        elif not hidden and is_dead(entry):
            found.dead[entry.name] += 1
        else:
            files.append(entry.name)
    return folders, files


def is_folder(entry: "os.DirEntry[str]") -> bool:
    """Whether an entry is a folder or leads to one; False for a link that leads to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_dead(entry: "os.DirEntry[str]") -> bool:
    """Whether an entry is a link that leads nowhere and has not the name of an image, whose reader says so."""
    link = entry.is_symlink() and not is_litter(entry.name) and _suffix(entry.name) not in suffixes()
    return link and not os.path.exists(entry.path)


def among(names: Iterable[str]) -> Found:
    """The images among the members of an archive, in their order."""
    found = Found()
    for path in names:
        folder, slash, name = path.rpartition("/")
        if name:  # else a folder
            found.add(folder + slash, [name])
    return found


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts 2.png before 10.png."""
    return [(int(part), part) if part.isascii() and part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def chunked(names: Iterable[str]) -> bool:
    """Whether the top folders are chunks of a thousand numbered images (EDM: 00003/img00003141.png; EDM2: 003000/003141.png; FFHQ:
    03000/03141.png)."""
    several = False
    for name in names:
        parts = PurePosixPath(name).parts
        number = re.fullmatch(r"\D*(\d{5,})", PurePosixPath(name).stem, re.ASCII)
        if len(parts) != 2 or number is None or not re.fullmatch(r"\d{5,}", parts[0], re.ASCII):
            return False
        if int(parts[0]) not in (int(number[1]) // 1000, int(number[1]) // 1000 * 1000):
            return False
        several = True
    return several


def _litter(folder: str) -> str | None:
    """The first part of a path that is hidden or left behind."""
    return next((part for part in folder.split("/") if is_litter(part)), None)


def _suffix(name: str) -> str:
    dot = name.rfind(".")
    return name[dot:].lower() if 0 < dot < len(name) - 1 else ""


def _count(counts: Counter[str], what: str) -> str:
    return f"{counts.total():,} {what}{'s' * (counts.total() > 1)}"


def _some(counts: Counter[str]) -> str:
    names = sorted(counts, key=lambda name: (-counts[name], name))
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
