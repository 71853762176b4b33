"""Which files below a folder, or in an archive, are images: one rule for what is trained on and for what is measured."""

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath

from PIL import Image

LITTER = {"__MACOSX", "@eaDir", "lost+found"}
NO_PIXELS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow recognises and cannot decode, or only by a program that is not part of it."""
NAMED = 3  # folders and suffixes in a note


@dataclass
class Found:
    """Image files by path below where they were looked for, and what was left out.

    ``hidden`` counts images among hidden files and what file managers and archives leave behind, by folder or file;
    ``other`` counts files that are no images by their suffix, by suffix.
    """

    names: list[str] = field(default_factory=list)
    hidden: Counter[str] = field(default_factory=Counter)
    other: Counter[str] = field(default_factory=Counter)

    def add(self, folder: str, names: Iterable[str]) -> None:
        """Sorts the files of one folder, whose path ends in a slash, or is empty. Data sets have millions of them."""
        litter, known = next((part for part in folder.split("/") if is_litter(part)), None), suffixes()
        for name in names:
            dot = name.rfind(".")
            suffix = name[dot:].lower() if 0 < dot < len(name) - 1 else ""
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
        return f"left out: {' and '.join(parts)}" if parts else None


@cache
def suffixes() -> frozenset[str]:
    """Lower-case file suffixes of every format that Pillow decodes."""
    Image.init()
    return frozenset(
        suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN and kind not in NO_PIXELS
    )


def is_litter(name: str) -> bool:
    """Whether a file or folder is hidden, or what file managers and archives leave behind."""
    return name.startswith(".") or name in LITTER


def below(folder: Path) -> Found:
    """The images below ``folder``, however deep, by relative path in no order; links are followed, each real folder once."""
    found, seen = Found(), set[str]()
    for base, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(base)
        if real in seen:
            folders[:] = []
            continue
        seen.add(real)
        folders.sort()  # so that of two ways to one real folder the same is taken everywhere
        inside = Path(base).relative_to(folder).as_posix()
        found.add("" if inside == "." else f"{inside}/", files)
    return found


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
    """Whether the top folders are chunks of a thousand numbered images (EDM: 00003/img00003141.png; EDM2: 003000/003141.png)."""
    several = False
    for name in names:
        parts = PurePosixPath(name).parts
        number = re.fullmatch(r"(?:img)?(\d{6,})", PurePosixPath(name).stem)
        if len(parts) != 2 or number is None or not re.fullmatch(r"\d{5,}", parts[0]):
            return False
        if int(parts[0]) not in (int(number[1]) // 1000, int(number[1]) // 1000 * 1000):
            return False
        several = True
    return several


def _count(counts: Counter[str], what: str) -> str:
    return f"{counts.total():,} {what}{'s' * (counts.total() > 1)}"


def _some(counts: Counter[str]) -> str:
    names = sorted(counts, key=lambda name: (-counts[name], name))
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
