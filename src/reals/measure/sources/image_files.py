"""Image files in a folder or a zip archive, in the order of their names; the folders of the first level are the classes."""

import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from reals.data.folder import EXTENSIONS
from reals.machine.cores import cores
from reals.measure.source import Source, size_text

PNG_DEPTH = 24  # where a PNG says its bits a channel
_LOSSY = (".jpg", ".jpeg", ".webp")


def _rgb(data: bytes, where: str) -> np.ndarray:
    """uint8 [3, H, W]; ValueError for transparency, more than 8 bits, and what cannot be read whole."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            deep = image.format == "PNG" and data[PNG_DEPTH] > 8  # which Pillow cuts to 8 bits without a word in RGB
            if deep or image.mode not in ("RGB", "L", "1", "P") or "transparency" in image.info:
                mode = f"mode {image.mode}" + (f" of {data[PNG_DEPTH]} bits" if deep else "")
                raise ValueError(f"{where}: {mode}, expected 8-bit RGB or grey without transparency")
            return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where}: cannot be read as an image ({error}); make it again") from None


def _size(file: Path | IO[bytes], where: str) -> tuple[int, int]:
    try:
        with Image.open(file) as image:
            return image.height, image.width
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where}: cannot be read as an image ({error}); make it again") from None


def folder_source(path: Path) -> Source:
    names = sorted(
        Path(base, name).relative_to(path).as_posix()
        for base, _, found in os.walk(path)
        for name in found
        if Path(name).suffix.lower() in EXTENSIONS and not name.startswith(".")
    )
    members = tuple(path / name for name in names)
    sizes = lambda pool: pool.map(lambda m: _size(m, str(m)), members)  # noqa: E731
    return _image_files(path, "folder", names, members, lambda name: (path / name).read_bytes(), sizes)


def zip_source(path: Path, archive: zipfile.ZipFile) -> Source:
    names = sorted(
        n for n in archive.namelist()
        if Path(n).suffix.lower() in EXTENSIONS and not Path(n).name.startswith(".") and not n.startswith("__MACOSX/")
    )  # fmt: skip

    def data(name: str) -> bytes:
        try:
            return archive.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{path}: {name} is damaged ({error}); copy or make the archive again") from None

    sizes = lambda pool: (_size(io.BytesIO(data(n)), f"{path}: {n}") for n in names)  # noqa: E731
    return _image_files(path, "zip", names, (path,), data, sizes)


def _image_files(
    path: Path,
    kind: str,
    names: list[str],
    members: tuple[Path, ...],
    data: Callable[[str], bytes],
    sizes: Callable[[ThreadPoolExecutor], Iterable[tuple[int, int]]],
) -> Source:
    """The images ``names``, whose bytes are ``data(name)``; ValueError where there are none or of several sizes."""
    if not names:
        raise ValueError(f"{path}: no image in this {kind} ({', '.join(sorted(EXTENSIONS))})")
    pool = ThreadPoolExecutor(cores())
    found = list(sizes(pool))
    for name, size in zip(names, found, strict=True):
        if size != found[0]:
            raise ValueError(
                f"{path}: {name} is {size_text(size)}, {names[0]} is {size_text(found[0])}; "
                "all images must have one size, and none is resized here"
            )

    def read(start: int, stop: int) -> np.ndarray:
        chosen = names[start:stop]
        return np.stack(list(pool.map(lambda n: _rgb(data(n), f"{path}: {n}"), chosen)))

    tops = [name.split("/", 1)[0] for name in names if "/" in name]
    labels, classes = None, None
    if len(tops) == len(names) and len(set(tops)) > 1:
        classes = tuple(sorted(set(tops)))
        labels = np.array([classes.index(t) for t in tops], np.int64)
    lossy = sum(name.lower().endswith(_LOSSY) for name in names)
    notes = (f"{lossy} of {len(names)} images are stored with lossy compression, which changes every metric",) if lossy else ()
    return Source(path, kind, len(names), found[0], read, members, labels, classes, notes)
