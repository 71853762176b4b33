"""Image files in a folder or an archive, in natural order of their paths, with their classes."""

import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from reals.data import image_files
from reals.data.decode import refuse_transparency, too_many_pixels
from reals.data.image_files import Found
from reals.machine.cores import cores
from reals.measure.source import Source, size_text

PNG_DEPTH = 24  # where a PNG says its bits a channel
LOSSY = {"JPEG", "MPO", "AVIF", "JPEG2000"}
LABELS = "dataset.json"
"""Where EDM's data sets, and StyleGAN's, say their labels: {"labels": [[name, class], ...]}."""


class Look(NamedTuple):
    """What an image file says of itself before it is decoded."""

    size: tuple[int, int]  # height, width
    lossy: bool


def _rgb(data: bytes, where: str) -> np.ndarray:
    """uint8 [3, H, W]; ValueError for transparency, more than 8 bits, and what cannot be read whole."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            deep = image.format == "PNG" and data[PNG_DEPTH] > 8  # which Pillow cuts to 8 bits without a word in RGB
            if deep or image.mode not in ("RGB", "RGBA", "L", "LA", "1", "P", "PA"):
                mode = f"mode {image.mode}" + (f" of {data[PNG_DEPTH]} bits" if deep else "")
                raise ValueError(f"{where}: {mode}, expected 8-bit RGB or grey without transparency")
            try:
                refuse_transparency(image)
            except ValueError as error:
                raise ValueError(
                    f"{where}: mode {image.mode}, expected 8-bit RGB or grey without transparency ({error})"
                ) from None
            return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{where}: cannot be read as an image ({_reason(error)}); make it again") from None


def look(file: Path | IO[bytes], where: str) -> Look:
    try:
        with Image.open(file) as image:
            if fault := too_many_pixels(image):
                raise OSError(fault)
            lossy = image.format in LOSSY or (image.format == "WEBP" and not _webp_is_lossless(file))
            return Look((image.height, image.width), lossy)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{where}: cannot be read as an image ({_reason(error)}); make it again") from None


def _reason(error: Exception) -> str:
    """Of what Pillow says; the name that it gives to bytes in memory is no one's business."""
    return "of no known format" if isinstance(error, UnidentifiedImageError) else str(error)


def _webp_is_lossless(file: Path | IO[bytes]) -> bool:
    """Whether the first picture in a WebP file is a VP8L chunk; Pillow does not say."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return _webp_is_lossless(opened)
    file.seek(12)  # after RIFF, its size and WEBP
    while len(header := file.read(8)) == 8:
        kind, size = struct.unpack("<4sI", header)
        if kind in (b"VP8L", b"VP8 "):
            return kind == b"VP8L"
        # An animation's frames are chunks inside a chunk, behind 16 bytes of their own.
        file.seek(16 if kind == b"ANMF" else size + size % 2, os.SEEK_CUR)
    return False


def folder_source(path: Path) -> Source:
    """The images of a folder, as `data.image_files` finds them."""
    found = image_files.below(path)
    looks = lambda names, pool: pool.map(lambda n: look(path / n, str(path / n)), names)  # noqa: E731
    members = lambda names: tuple(path / name for name in names)  # noqa: E731
    stated = (path / LABELS).read_bytes() if (path / LABELS).is_file() else None
    return image_files_source(path, "folder", found, members, lambda name: (path / name).read_bytes(), looks, stated)


def zip_source(path: Path, archive: zipfile.ZipFile) -> Source:
    """The images of a zip archive, as `data.image_files` finds them."""
    found = image_files.among(archive.namelist())

    def data(name: str) -> bytes:
        try:
            return archive.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{path}: {name} is damaged ({error}); copy or make the archive again") from None

    looks = lambda names, pool: (look(io.BytesIO(data(n)), f"{path}: {n}") for n in names)  # noqa: E731
    stated = data(LABELS) if LABELS in archive.namelist() else None
    return image_files_source(path, "zip", found, lambda names: (path,), data, looks, stated)


def image_files_source(
    path: Path,
    kind: str,
    found: Found,
    members: Callable[[list[str]], tuple[Path, ...]],
    data: Callable[[str], bytes],
    looks: Callable[[list[str], ThreadPoolExecutor], Iterable[Look]],
    stated: bytes | None,
    classes_of: Callable[[list[str]], np.ndarray | None] = lambda names: None,
) -> Source:
    """The images that were ``found``, whose bytes are ``data(name)``; ValueError where there are none or of several sizes.

    Labels are those of a dataset.json (``stated``), else what ``classes_of`` says of the sorted names, else the folders.
    """
    if stated is not None:
        del found.other[Path(LABELS).suffix]  # read, not left out
    left_out = found.left_out
    names = sorted(found.names, key=image_files.natural)
    if not names:
        raise ValueError(f"{path}: no image in this {kind}" + (f"; {left_out}" if left_out else ""))
    pool = ThreadPoolExecutor(cores())
    seen = list(looks(names, pool))
    for name, look in zip(names, seen, strict=True):
        if look.size != seen[0].size:
            raise ValueError(
                f"{path}: {name} is {size_text(look.size)}, {names[0]} is {size_text(seen[0].size)}; "
                "all images must have one size, and none is resized here"
            )

    def read(start: int, stop: int) -> np.ndarray:
        chosen = names[start:stop]
        return np.stack(list(pool.map(lambda n: _rgb(data(n), f"{path}: {n}"), chosen)))

    labels, classes = _stated_labels(path, names, stated) if stated is not None else classes_of(names), None
    if labels is None and stated is None:
        labels, classes = _labels(names)
    lossy = sum(look.lossy for look in seen)
    notes = [f"{lossy} of {len(names)} images are stored with lossy compression, which changes every metric"] if lossy else []
    notes += [left_out] if left_out else []
    return Source(path, kind, len(names), seen[0].size, read, members(names), labels, classes, tuple(notes))


def _labels(names: list[str]) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """The folders of the first level as classes, where every image is in one and they are no chunks of numbered images."""
    tops = [name.split("/", 1)[0] for name in names if "/" in name]
    if len(tops) != len(names) or len(set(tops)) < 2 or image_files.chunked(names):
        return None, None
    classes = tuple(sorted(set(tops)))
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[top] for top in tops], np.int64), classes


def _stated_labels(path: Path, names: list[str], stated: bytes) -> np.ndarray | None:
    """The class of each image by dataset.json; None where it states none, or anything but one whole number an image."""
    try:
        rows = json.loads(stated)["labels"]
        given = None if rows is None else {str(name): label for name, label in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: {LABELS} does not list labels as [name, class] ({error}); mend or remove it") from None
    if given is None or not all(type(label) is int for label in given.values()):
        return None
    if missing := [name for name in names if name not in given]:
        raise ValueError(f"{path}: {LABELS} has no label of {missing[0]} ({len(missing)} such); mend or remove it")
    return np.array([given[name] for name in names], np.int64)
