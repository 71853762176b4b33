"""Image files in a folder or an archive, in natural order of their paths, with their classes."""

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from reals.data import image_files
from reals.data.decode import refuse_transparency, too_many_pixels
from reals.data.image_files import Found
from reals.machine.cores import cores
from reals.measure.source import Source, size_text
from reals.measure.sources.archive import DAMAGE, unpacked_name

LOSSY = {"JPEG", "MPO", "AVIF", "JPEG2000"}
LARGEST_LABEL = 2**63  # what int64 holds is below
LARGEST_BYTE = 255
LABELS = "dataset.json"
"""Where EDM's data sets, and StyleGAN's, say their labels: {"labels": [[name, class], ...]}."""


class Look(NamedTuple):
    """What an image file says of itself before it is decoded."""

    size: tuple[int, int]  # height, width
    lossy: bool


def _rgb(data: bytes, where: str) -> np.ndarray:
    """uint8 [3, H, W]; ValueError for transparency, more than 8 bits, and what cannot be read whole."""
    with _readable(where), Image.open(io.BytesIO(data)) as image:
        deep = _is_deep(image)
        image.load()
    if deep or image.mode not in ("RGB", "RGBA", "L", "LA", "1", "P", "PA"):
        mode = f"mode {image.mode}" + (" of 16 bits" if deep else "")
        raise ValueError(f"{where}: {mode}, expected 8-bit RGB or grey without transparency")
    try:
        refuse_transparency(image)
    except ValueError as error:
        raise ValueError(f"{where}: mode {image.mode}, expected 8-bit RGB or grey without transparency ({error})") from None
    return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1))


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether a file that was not decoded yet has 16 bits a channel, which Pillow cuts to 8 without a word in RGB."""
    for tile in image.tile:
        args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        largest = args[-1] if tile.codec_name.startswith("ppm") else None
        if tile.codec_name == "SGI16" or ";16" in str(args) or (isinstance(largest, int) and largest > LARGEST_BYTE):
            return True
    return False


def look(file: Path | IO[bytes], where: str) -> Look:
    with _readable(where), Image.open(file) as image:
        if fault := too_many_pixels(image):
            raise ValueError(fault)
        lossy = image.format in LOSSY or (image.format == "WEBP" and not _webp_is_lossless(file))
        return Look((image.height, image.width), lossy)


@contextmanager
def _readable(where: str) -> Iterator[None]:
    """Around opening and decoding an image: on a damaged one decoders raise anything. ValueError, one line, in its place."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "of no known format"  # the name that Pillow gives to bytes in memory is no one's business
        raise ValueError(f"{where}: cannot be read as an image ({reason}); make it again") from None


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
    """The images of a zip archive, as `data.image_files` finds them; of a name that is there twice the last, as unpacked."""
    members = {unpacked_name(info.filename): info for info in archive.infolist() if not info.is_dir()}
    found = image_files.among(members)

    def data(name: str) -> bytes:
        try:
            return archive.read(members[name])
        except DAMAGE as error:
            raise ValueError(f"{path}: {name} is damaged ({error}); copy or make the archive again") from None

    looks = lambda names, pool: (look(io.BytesIO(data(n)), f"{path}: {n}") for n in names)  # noqa: E731
    stated = data(LABELS) if LABELS in members else None
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
    outer: int = 0,
) -> Source:
    """The images that were ``found``, whose bytes are ``data(name)``; ValueError where there are none or of several sizes.

    Labels are those of a dataset.json (``stated``), else what ``classes_of`` says of the sorted names, else the folders. The first
    ``outer`` parts of a name are no folder of images.
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
        labels, classes = _labels([name.split("/", outer)[-1] for name in names])
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
    if given is None or not all(type(label) is int and abs(label) < LARGEST_LABEL for label in given.values()):
        return None
    if missing := [name for name in names if name not in given]:
        raise ValueError(f"{path}: {LABELS} has no label of {missing[0]} ({len(missing)} such); mend or remove it")
    return np.array([given[name] for name in names], np.int64)
