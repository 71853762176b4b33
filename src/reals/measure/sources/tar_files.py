"""Image files in tar archives, as webdataset writes them: one archive, or a folder of them."""

import codecs
import io
import os
import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reals.data import image_files
from reals.measure.source import Source
from reals.measure.sources.archive import unpacked_name
from reals.measure.sources.image_files import LARGEST_LABEL, image_files_source, look, stated_in

BLOCK = 512  # bytes, of which an archive is a multiple
END = bytes(BLOCK)  # what stands behind the last member
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}  # by their first bytes
LABEL = ".cls"
"""Where webdataset says the class of an image: a text file of the same name, or of that name up to its first dot."""


@dataclass(frozen=True)
class _Member:
    """Where a file's bytes are: they are stored as they are, so that threads read them without an archive's own position."""

    archive: Path
    start: int
    size: int

    def read(self) -> bytes:
        with self.archive.open("rb") as file:
            return os.pread(file.fileno(), self.size, self.start)


def tars_in(folder: Path) -> list[Path]:
    """The tar archives in a folder, in natural order; none where it has images of its own."""
    there = [path for path in folder.iterdir() if path.suffix.lower() == ".tar" and path.is_file()]
    found = [path for path in there if not image_files.is_litter(path.name)]
    return [] if not found or image_files.below(folder).names else sorted(found, key=lambda path: image_files.natural(path.name))


def tar_source(path: Path, archives: list[Path]) -> Source:
    """The images of the archives, which are ``path`` itself or in that folder: one after the other, each in natural order.

    A class is read where each image has a ``.cls`` file with a whole number, else of a dataset.json. ValueError, one line, for an archive that is damaged,
    cut short, compressed, or several in one file.
    """
    several = archives != [path]
    members: dict[str, _Member] = {}
    for archive in archives:
        for name, member in _members(archive):
            members[f"{archive.name}/{name}" if several else name] = member
    found = image_files.among(members)
    labels = _labels(found.names, members)
    stated = stated_in(members, found.names) if labels is None else None
    if labels is not None:
        found.other.pop(LABEL)  # read, not left out

    def data(name: str) -> bytes:
        return members[name].read()

    looks = lambda names, pool: (look(io.BytesIO(data(name)), f"{path}: {name}") for name in names)  # noqa: E731
    kind = "folder of tar files" if several else "tar"
    files = lambda names: tuple(archives)  # noqa: E731
    of_names = lambda names: None if labels is None else np.array([labels[name] for name in names], np.int64)  # noqa: E731
    return image_files_source(
        path, kind, found, files, data, looks, data(stated) if stated else None, of_names, outer=int(several)
    )


def _labels(names: list[str], members: dict[str, _Member]) -> dict[str, int] | None:
    """The class of each image by its ``.cls`` file; None where one has none, or anything but a whole number in it."""
    files = {posixpath.splitext(name)[0]: member for name, member in members.items() if name.lower().endswith(LABEL)}
    found = {}
    for name in names:
        folder, slash, own = name.rpartition("/")
        stated = files.get(posixpath.splitext(name)[0]) or files.get(f"{folder}{slash}{own.partition('.')[0]}")
        text = b"" if stated is None else stated.read().removeprefix(codecs.BOM_UTF8).strip()
        if not text.isdigit() or int(text) >= LARGEST_LABEL:
            return None
        found[name] = int(text)
    return found or None


def _members(path: Path) -> Iterator[tuple[str, _Member]]:
    """(name, where it is) of each file in an archive; a link is the file that it leads to, in the same archive."""
    try:
        with tarfile.open(path, "r:") as archive:
            entries = archive.getmembers()
            _refuse_more(path, archive.offset)  # tarfile takes whatever it cannot read behind a member for the end
    except tarfile.TarError as error:
        raise ValueError(f"{path}: {_fault(path, error)}") from None
    files = {unpacked_name(entry.name): entry for entry in entries if entry.isreg()}
    for entry in entries:
        name, file = unpacked_name(entry.name), entry
        if entry.islnk() or entry.issym():
            to = entry.linkname if entry.islnk() else posixpath.join(posixpath.dirname(name), entry.linkname)
            if unpacked_name(to) not in files:
                raise ValueError(
                    f"{path}: {name} is a link to {entry.linkname}, which is not in the archive; pack it with tar -h"
                )
            file = files[unpacked_name(to)]
        if file.isreg():
            yield name, _Member(path, file.offset_data, file.size)


def _refuse_more(path: Path, end: int) -> None:
    """ValueError unless an archive ends at byte ``end``, with its mark."""
    with path.open("rb") as file:
        file.seek(end)
        mark = file.read(BLOCK)
        if mark != END:
            state = "cut short" if len(mark) < BLOCK else f"damaged at byte {end}"
            raise ValueError(f"{path}: {state}; copy or make it again")
        while block := file.read(1 << 20):
            if block.strip(b"\0"):
                raise ValueError(
                    f"{path}: more follows the archive's end, as where several were joined; unpack it with "
                    "`tar --ignore-zeros` and give the folder"
                )


def _fault(path: Path, error: tarfile.TarError) -> str:
    """What is wrong with an archive that cannot be listed, and what to do."""
    with path.open("rb") as file:
        head = file.read(6)
    packed = next((name for magic, name in COMPRESSED.items() if head.startswith(magic)), None)
    if packed is not None:
        return f"compressed by {packed}; unpack it and give the .tar or the folder"
    return f"not a whole tar archive ({error}); copy or make it again"
