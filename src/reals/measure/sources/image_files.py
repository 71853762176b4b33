"""Image files in a folder or an archive, in natural order of their paths, with their classes."""

import io
import json
import os
import struct
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from reals.data import image_files
from reals.data.decode import RGB_OR_GREY, converted, first_of_several, is_deep, opaque, opened, several, too_many_pixels
from reals.data.image_files import Found
from reals.machine.cores import cores
from reals.measure.source import Source, size_text
from reals.measure.sources.archive import DAMAGE, unpacked, unpacked_name

LOSSY = {"JPEG", "MPO", "AVIF"}
LOSSY_IN_TIFF = {"jpeg", "tiff_jpeg", "webp"}
LARGEST_LABEL = 2**63  # what int64 holds is below
CONVERTED = (
    "CMYK",
    "YCbCr",
    "RGBX",
)  # colour models that Pillow converts to RGB, as ADM's and torch-fidelity's readers have it do
LABELS = "dataset.json"
"""Where EDM's data sets, and StyleGAN's, say their labels: {"labels": [[name, class], ...]}."""


class Look(NamedTuple):
    """What an image file says of itself before it is decoded."""

    size: tuple[int, int]  # height, width
    lossy: bool
    several: bool  # pictures, of which the first is read
    mode: str  # Pillow's name of its colour model


def _rgb(data: bytes, where: str) -> np.ndarray:
    """uint8 [3, H, W]; ValueError for transparency, more than 8 bits, and what cannot be read whole."""
    with _readable(where), opened(data) as image:
        deep = is_deep(image)
        image.load()
    if deep or image.mode not in (*RGB_OR_GREY, *CONVERTED):
        mode = f"mode {image.mode}" + (" of 16 bits" if deep and not image.mode.startswith("I") else "")
        raise ValueError(f"{where}: {mode}, expected 8-bit RGB or grey without transparency, or CMYK")
    try:
        picture = opaque(image).convert("RGB")
    except ValueError as error:
        raise ValueError(
            f"{where}: mode {image.mode}, expected 8-bit RGB or grey without transparency, or CMYK ({error})"
        ) from None
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def look(file: Path | IO[bytes], where: str) -> Look:
    """What a file says of itself, of which no more is read than that takes. ValueError, one line, where it is no image."""
    with _readable(where), _header(file) as image:
        if fault := too_many_pixels(image):
            raise ValueError(fault)
        return Look((image.height, image.width), _is_lossy(image, file), several(image), image.mode)


def _header(file: Path | IO[bytes]) -> ImageFile.ImageFile:
    try:
        return Image.open(file)
    except Exception:  # a damaged chunk that no pixel needs, maybe
        if isinstance(file, Path):
            return opened(file.read_bytes())
        file.seek(0)
        return opened(file.read())


def _is_lossy(image: Image.Image, file: Path | IO[bytes]) -> bool:
    """Whether a file's format, or its own choice within it, keeps something else than the pixels that were saved."""
    if of_its_own := LOSSLESS_BY_CHOICE.get(image.format or ""):
        with file.open("rb") if isinstance(file, Path) else nullcontext(file) as bytes_of:
            return not of_its_own(bytes_of)
    return image.format in LOSSY or (image.format == "TIFF" and image.info.get("compression") in LOSSY_IN_TIFF)


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


def _webp_is_lossless(file: IO[bytes]) -> bool:
    """Whether the first picture in a WebP file is a VP8L chunk; Pillow does not say."""
    file.seek(12)  # after RIFF, its size and WEBP
    while len(header := file.read(8)) == 8:
        kind, size = struct.unpack("<4sI", header)
        if kind in (b"VP8L", b"VP8 "):
            return kind == b"VP8L"
        # An animation's frames are chunks inside a chunk, behind 16 bytes of their own.
        file.seek(16 if kind == b"ANMF" else size + size % 2, os.SEEK_CUR)
    return False


def _jpeg2000_is_reversible(file: IO[bytes]) -> bool:
    """Whether the wavelet that the codestream names first (in its COD marker) is the one of whole numbers; Pillow does not say."""
    file.seek(0)
    head = file.read(1 << 16)
    wavelet = head.find(b"\xff\x52", head.find(b"\xff\x4f\xff\x51")) + 13
    return head[wavelet : wavelet + 1] == b"\x01"


LOSSLESS_BY_CHOICE = {"WEBP": _webp_is_lossless, "JPEG2000": _jpeg2000_is_reversible}
"""Formats that may keep the pixels that were saved or not, and how a file tells."""


def folder_source(path: Path) -> Source:
    """The images of a folder, as `data.image_files` finds them."""
    found = image_files.below(path)
    looks = lambda names, pool: pool.map(lambda n: look(path / n, str(path / n)), names)  # noqa: E731
    members = lambda names: tuple(path / name for name in names)  # noqa: E731
    stated = (path / LABELS).read_bytes() if (path / LABELS).is_file() else None
    return image_files_source(path, "folder", found, members, lambda name: (path / name).read_bytes(), looks, stated)


def zip_source(path: Path, archive: zipfile.ZipFile) -> Source:
    """The images of a zip archive, as `data.image_files` finds them; of a name that is there twice the last, as unpacked."""
    members = unpacked(archive)
    found = image_files.among(members)

    def data(name: str) -> bytes:
        try:
            return archive.read(members[name])
        except DAMAGE as error:
            raise ValueError(f"{path}: {name} is damaged ({error}); copy or make the archive again") from None

    looks = lambda names, pool: (look(io.BytesIO(data(n)), f"{path}: {n}") for n in names)  # noqa: E731
    place = stated_in(members, found.names)
    stated = data(place) if place else None
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
    ``outer`` parts of a name are no folder of images, and neither is a folder that holds all there is, as in an archive of a folder.
    """
    if stated is not None:
        found.other -= Counter([Path(LABELS).suffix])  # read, not left out
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

    inner = _inside([name.split("/", outer)[-1] for name in names])
    labels, unread = _stated_labels(path, names, inner, stated) if stated is not None else (classes_of(names), None)
    classes = None
    if labels is None and stated is None:
        labels, classes = _labels(inner)
    lossy = sum(look.lossy for look in seen)
    stored = f"{lossy} of {len(names)} images are stored with lossy compression, which changes every metric" if lossy else None
    first = first_of_several(sum(look.several for look in seen), len(names))
    models = converted((look.mode for look in seen), len(names))
    notes = tuple(note for note in (stored, first, models, left_out, unread) if note)
    return Source(path, kind, len(names), seen[0].size, read, members(names), labels, classes, notes)


def stated_in(members: Collection[str], names: list[str]) -> str | None:
    """Which member of an archive is the dataset.json of its images: at the top, or in the folder that holds all of them."""
    tops = {name.rpartition("/")[0].split("/", 1)[0] for name in names}
    places = [LABELS, *(f"{top}/{LABELS}" for top in tops if top and len(tops) == 1)]
    return next((place for place in places if place in members), None)


def _inside(names: list[str]) -> list[str]:
    """The names inside the one folder that holds all of them; as they are where there is none."""
    tops = {name.split("/", 1)[0] for name in names if "/" in name}
    return [name.split("/", 1)[1] for name in names] if len(tops) == 1 and all("/" in name for name in names) else names


def _labels(names: list[str]) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """The folders of the first level as classes, where every image is in one and they are no chunks of numbered images."""
    # File systems write one name in two Unicode forms: such folders are one class, as in `data.folder`.
    tops = [unicodedata.normalize("NFC", name.split("/", 1)[0]) for name in names if "/" in name]
    if len(tops) != len(names) or len(set(tops)) < 2 or image_files.chunked(names):
        return None, None
    classes = tuple(sorted(set(tops)))
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[top] for top in tops], np.int64), classes


def _stated_labels(path: Path, names: list[str], inner: list[str], stated: bytes) -> tuple[np.ndarray | None, str | None]:
    """(the class of each image by dataset.json, a note on what of it is not read); no class where it states none, or anything but one
    whole number an image. It names images by their ``names``, or those ``inner`` of the folder that it lies in."""
    try:
        rows = json.loads(stated)["labels"]
        given = None if rows is None else {unpacked_name(str(name)): label for name, label in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: {LABELS} does not list labels as [name, class] ({error}); mend or remove it") from None
    if given is None:
        return None, None
    if odd := [label for label in given.values() if type(label) is not int or abs(label) >= LARGEST_LABEL]:
        return None, f"{LABELS} has labels that are no whole numbers ({str(odd[0])[:20]}): left unread"
    names = inner if given.keys().isdisjoint(names) else names
    if missing := [name for name in names if name not in given]:
        raise ValueError(f"{path}: {LABELS} has no label of {missing[0]} ({len(missing)} such); mend or remove it")
    gone = sorted(given.keys() - set(names))
    note = f"{LABELS} lists {len(gone)} images that are not there ({gone[0]}{', ...' * (len(gone) > 1)})" if gone else None
    return np.array([given[name] for name in names], np.int64), note
