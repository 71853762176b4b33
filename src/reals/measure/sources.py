"""Images to be measured, wherever they lie: one ordered set of equal-sized bytes, read in batches."""

from __future__ import annotations

import bisect
import hashlib
import io
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reals import files
from reals.data.images import EXTENSIONS, THREADS

PNG_DEPTH = 24  # where a PNG says its bits a channel
RANGES = ("bytes", "unit", "signed")
_LOSSY = (".jpg", ".jpeg", ".webp")

Read = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class Source:
    """N images of one size, in the order of their file: N = ``len``, ``size`` is (height, width).

    ``labels`` is int64 [N] or None and ``classes`` their names, where the files say so. ``notes`` are what a
    reader of a metric should know. ``read(start, stop)`` gives uint8 [B, 3, H, W].
    """

    path: Path
    kind: str
    count: int
    size: tuple[int, int]
    read: Read
    members: tuple[Path, ...]  # the files behind it, for the checksum
    labels: np.ndarray | None = None
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.count

    def batches(self, start: int, stop: int, batch: int) -> Iterator[Tensor]:
        """uint8 tensors [B, 3, H, W] of images start to stop; the next is read while one is in use."""
        spans = [(i, min(i + batch, stop)) for i in range(start, stop, batch)]
        with ThreadPoolExecutor(1) as reader:
            ahead = None
            for span in [*spans, None]:
                now, ahead = ahead, None if span is None else reader.submit(self.read, *span)
                if now is not None:
                    yield torch.from_numpy(now.result())

    @cached_property
    def sha256(self) -> str:
        """Of the file itself, or of the names and checksums of a folder's files."""
        if self.members == (self.path,):
            return files.sha256(self.path)
        with ThreadPoolExecutor(THREADS) as pool:
            digests = pool.map(files.sha256, self.members)
            lines = [f"{m.relative_to(self.path).as_posix()} {d}\n" for m, d in zip(self.members, digests, strict=True)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def open_source(path: Path, value_range: str = "bytes") -> Source:
    """The images at ``path``: ADM's .npz, a list of arrays in an .npz or .npy, our shards, a folder or a zip.

    ``value_range`` declares what floating numbers mean: ``unit`` (in [0, 1], as diffusers' ``output_type="np"``,
    rounded to bytes as diffusers does) or ``signed`` (in [-1, 1], trunc(127.5 x + 128) as ADM and DiT do);
    ``bytes`` refuses them. uint8 is taken as it is. Nothing is guessed, cropped or resized. ValueError, one line, for a missing,
    empty or truncated source, another type, shape or channel count, images of several sizes, and transparency.
    """
    if value_range not in RANGES:
        raise ValueError(f"range: got {value_range!r}, expected one of {', '.join(RANGES)}")
    if path.is_dir():
        shards = sorted(path.glob("shard_*.npy"))
        return _shards(path, shards, value_range) if shards else _folder(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file or folder")
    if path.suffix.lower() == ".npy":
        return _npy(path, value_range)
    if path.suffix.lower() not in (".npz", ".zip"):
        raise ValueError(f"{path}: expected an .npz, an .npy, a .zip of images or a folder")
    archive = open_zip(path)
    if any(name.endswith(".npy") for name in archive.namelist()):
        return _npz(path, archive, value_range)
    return _zip(path, archive)


def open_zip(path: Path) -> zipfile.ZipFile:
    """The archive (an .npz is one); ValueError where its directory is gone, as in every truncated one."""
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise ValueError(
            f"{path}: truncated, or not a zip archive ({path.stat().st_size} bytes); copy or make it again"
        ) from None


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """Around reading an .npz: ValueError, one line, where a member is damaged, gone or no plain array."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError) as error:
        raise ValueError(f"{path}: damaged ({error}); copy or make it again") from None
    except ValueError as error:
        if str(error).startswith(str(path)):  # one of ours
            raise
        raise ValueError(f"{path}: cannot be read ({error}); copy or make it again") from None


# Numbers


def _to_bytes(images: np.ndarray, value_range: str, where: str) -> np.ndarray:
    """uint8 of images as declared; ValueError where a value is outside the declared range."""
    if images.dtype == np.uint8:
        return images
    low = {"unit": 0.0, "signed": -1.0}[value_range]
    if not (images.min() >= low and images.max() <= 1):  # also true of NaN
        raise ValueError(
            f"{where}: values from {images.min():.4g} to {images.max():.4g}, "
            f"expected [{low:g}, 1] with --range {value_range}; clip them or declare another range"
        )
    x = images.astype(np.float32)
    return (np.rint(x * 255) if value_range == "unit" else np.clip(127.5 * x + 128, 0, 255)).astype(np.uint8)


def _check_type(dtype: np.dtype, value_range: str, where: str) -> None:
    if dtype.hasobject:
        raise ValueError(f"{where}: holds Python objects, which are not read; save one array of equal-sized images")
    floating = dtype.kind == "f"
    if value_range == "bytes" and floating:
        raise ValueError(
            f"{where}: {dtype}, expected uint8 in 0..255; "
            "if the values are in [0, 1] or [-1, 1] say so with --range unit or --range signed"
        )
    if not floating and dtype != np.uint8:
        raise ValueError(f"{where}: {dtype}, expected uint8 in 0..255; save the images as uint8")


def _channels_first(shape: tuple[int, ...], where: str, either: bool = False) -> bool:
    """Whether [N, ...] is NCHW. NHWC is expected, or ``either`` where the shape leaves no doubt."""
    if len(shape) == 4 and 0 in shape:
        raise ValueError(f"{where}: shape {shape} holds no image")
    if len(shape) == 4 and shape[3] == 3 and not (either and shape[1] == 3):
        return False
    if len(shape) == 4 and shape[1] == 3 and shape[3] != 3:
        if either:
            return True
        raise ValueError(f"{where}: shape {shape} is channels first; expected [N, H, W, 3], so transpose(0, 2, 3, 1) it")
    raise ValueError(f"{where}: shape {shape}, expected [N, H, W, 3]" + (" or [N, 3, H, W]" if either else ""))


def _slicer(array: np.ndarray, channels_first: bool, value_range: str, where: str) -> Read:
    def read(start: int, stop: int) -> np.ndarray:
        images = _to_bytes(np.array(array[start:stop]), value_range, f"{where}, images {start} to {stop - 1}")
        return images if channels_first else np.ascontiguousarray(images.transpose(0, 3, 1, 2))

    return read


def _joined(parts: Sequence[tuple[int, Read]]) -> tuple[int, Read]:
    """The number of images in all parts, and a reader over them in order."""
    ends = list(accumulate(n for n, _ in parts))

    def read(start: int, stop: int) -> np.ndarray:
        blocks = []
        part = bisect.bisect_right(ends, start)
        while start < stop:
            before = ends[part] - parts[part][0]
            end = min(stop, ends[part])
            blocks.append(parts[part][1](start - before, end - before))
            start, part = end, part + 1
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    return ends[-1], read


def _memmap(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        reason = "holds Python objects, which are not read" if "pickle" in str(error) else f"truncated or no .npy ({error})"
        raise ValueError(f"{path}: {reason}; make it again") from None


# Arrays


def _shards(path: Path, shards: list[Path], value_range: str) -> Source:
    numbers = [int(m[1]) for m in (re.fullmatch(r"shard_(\d+)\.npy", s.name) for s in shards) if m]
    if numbers != list(range(len(shards))):
        gap = next(i for i, number in enumerate([*numbers, -1]) if number != i)
        raise ValueError(f"{path}: {len(shards)} shards, but no shard_{gap:03d}.npy; draw that shard first")
    arrays = [_memmap(s) for s in shards]
    for shard, array in zip(shards, arrays, strict=True):
        _check_type(array.dtype, value_range, str(shard))
        if array.ndim != 4 or array.shape[1] != 3 or array.shape[1:] != arrays[0].shape[1:]:
            raise ValueError(f"{shard}: shape {array.shape}, expected [N, 3, H, W] with the size of {shards[0].name}")
    count, read = _joined(
        [(len(a), _slicer(a, True, value_range, str(s))) for a, s in zip(arrays, shards, strict=True) if len(a)] or _nothing(path)
    )
    return Source(path, "shards", count, arrays[0].shape[2:], read, tuple(shards))


def _nothing(path: Path) -> list:
    raise ValueError(f"{path}: no images")


def _npy(path: Path, value_range: str) -> Source:
    array = _memmap(path)
    _check_type(array.dtype, value_range, str(path))
    first = _channels_first(array.shape, str(path), either=True)
    size = array.shape[2:] if first else array.shape[1:3]
    return Source(path, "array", len(array), size, _slicer(array, first, value_range, str(path)), (path,))


def _npz(path: Path, archive: zipfile.ZipFile, value_range: str) -> Source:
    names = [n.removesuffix(".npy") for n in archive.namelist()]
    if "arr_0" not in names:
        kind = "statistics, not images" if "mu" in names else "not images in ADM's layout"
        raise ValueError(f"{path}: holds {', '.join(names[:6])} but no arr_0; these are {kind}")
    shape, dtype = _header(path, archive, "arr_0")[:2]
    _check_type(dtype, value_range, f"{path}: arr_0")
    listed = [n for n in (f"arr_{i}" for i in range(len(names))) if n in names]
    if len(shape) == 3 or (len(listed) > 1 and len(_header(path, archive, listed[1])[0]) == 4):
        return _listed(path, archive, listed, value_range)
    if _channels_first(shape, f"{path}: arr_0"):
        raise AssertionError("refused above")
    labels = _labels(path, archive, names, shape[0])
    return Source(path, "npz", shape[0], shape[1:3], _member(path, archive, "arr_0", value_range), (path,), labels)


def _header(path: Path, archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype, bool, int]:
    """(shape, dtype, Fortran order, length of the header) of a member."""
    try:
        with archive.open(f"{name}.npy") as member:
            version = np.lib.format.read_magic(member)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(member)
            length = member.tell()
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: {name} is damaged ({error}); copy or make the file again") from None
    stored = archive.getinfo(f"{name}.npy").file_size
    expected = length + int(np.prod(shape)) * dtype.itemsize
    if not dtype.hasobject and stored != expected:
        raise ValueError(f"{path}: {name} holds {stored} bytes, its header asks for {expected}; make the file again")
    return shape, dtype, fortran, length


def _labels(path: Path, archive: zipfile.ZipFile, names: list[str], count: int) -> np.ndarray | None:
    """ADM writes class labels as arr_1; ``labels`` is taken as well."""
    name = next((n for n in ("arr_1", "labels") if n in names), None)
    if name is None:
        return None
    with whole(path), np.load(path, allow_pickle=False) as arrays:
        labels = arrays[name]
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: {name} is {labels.dtype} {labels.shape}, expected {count} integer class labels")
    return labels.astype(np.int64)


def _member(path: Path, archive: zipfile.ZipFile, name: str, value_range: str) -> Read:
    """A reader of one NHWC member: a memory map where it is stored, a forward stream where it is compressed."""
    shape, dtype, fortran, length = _header(path, archive, name)
    where = f"{path}: {name}"
    if fortran:
        raise ValueError(f"{where}: in Fortran order; save np.ascontiguousarray of it")
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type == zipfile.ZIP_STORED:
        with path.open("rb") as file:
            file.seek(info.header_offset + 26)
            name_length, extra_length = (int.from_bytes(file.read(2), "little") for _ in range(2))
        offset = info.header_offset + 30 + name_length + extra_length + length
        return _slicer(np.memmap(path, dtype, "r", offset, shape), False, value_range, where)
    row = int(np.prod(shape[1:])) * dtype.itemsize
    state: dict[str, object] = {"stream": None, "at": 0}

    def read(start: int, stop: int) -> np.ndarray:
        try:
            if state["stream"] is None or start < state["at"]:
                state["stream"], state["at"] = archive.open(info), 0
                state["stream"].read(length)
            for _ in range(state["at"], start):
                state["stream"].read(row)
            data = state["stream"].read((stop - start) * row)
            state["at"] = stop
            if len(data) != (stop - start) * row:
                raise EOFError("the data end early")
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{where}: damaged before image {stop} ({error}); copy or make the file again") from None
        images = np.frombuffer(data, dtype).reshape(stop - start, *shape[1:])
        return _slicer(images, False, value_range, f"{where} from image {start}")(0, stop - start)

    return read


def _listed(path: Path, archive: zipfile.ZipFile, names: list[str], value_range: str) -> Source:
    """arr_0, arr_1, ...: a list of images [H, W, 3] or of batches [N, H, W, 3]."""
    arrays = np.load(path, allow_pickle=False)
    parts, size = [], None
    for name in names:
        shape, dtype = _header(path, archive, name)[:2]
        where = f"{path}: {name}"
        _check_type(dtype, value_range, where)
        single = len(shape) == 3
        shape = (1, *shape) if single else shape
        _channels_first(shape, where)
        size = size or shape[1:3]
        if shape[1:3] != size:
            raise ValueError(f"{where}: {_text(shape[1:3])}, arr_0 is {_text(size)}; all images must have one size")

        def read(start: int, stop: int, name=name, where=where) -> np.ndarray:
            with whole(path):
                array = arrays[name]
            return _slicer(array[None], False, value_range, where)(start, stop)

        # A batch is read as it is needed, not whole for each of ours.
        parts.append((shape[0], read if single else _member(path, archive, name, value_range)))
    count, read = _joined(parts)
    return Source(path, "list of arrays", count, size, read, (path,))


def _text(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


# Image files


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


def _size(file: object, where: str) -> tuple[int, int]:
    try:
        with Image.open(file) as image:
            return image.height, image.width
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where}: cannot be read as an image ({error}); make it again") from None


def _folder(path: Path) -> Source:
    names = sorted(
        Path(base, name).relative_to(path).as_posix()
        for base, _, found in os.walk(path)
        for name in found
        if Path(name).suffix.lower() in EXTENSIONS and not name.startswith(".")
    )
    members = tuple(path / name for name in names)
    sizes = lambda pool: pool.map(lambda m: _size(m, str(m)), members)  # noqa: E731
    return _image_files(path, "folder", names, members, lambda name: (path / name).read_bytes(), sizes)


def _zip(path: Path, archive: zipfile.ZipFile) -> Source:
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


def _image_files(path: Path, kind: str, names: list[str], members, data, sizes) -> Source:
    if not names:
        raise ValueError(f"{path}: no image in this {kind} ({', '.join(sorted(EXTENSIONS))})")
    pool = ThreadPoolExecutor(THREADS)
    found = list(sizes(pool))
    for name, size in zip(names, found, strict=True):
        if size != found[0]:
            raise ValueError(
                f"{path}: {name} is {_text(size)}, {names[0]} is {_text(found[0])}; "
                "all images must have one size, and none is resized here"
            )

    def read(start: int, stop: int) -> np.ndarray:
        chosen = names[start:stop]
        return np.stack(list(pool.map(lambda n: _rgb(data(n), f"{path}: {n}"), chosen)))

    tops = [name.split("/", 1)[0] if "/" in name else None for name in names]
    labels, classes = None, None
    if None not in tops and len(set(tops)) > 1:
        classes = tuple(sorted(set(tops)))
        labels = np.array([classes.index(t) for t in tops], np.int64)
    lossy = sum(name.lower().endswith(_LOSSY) for name in names)
    notes = (f"{lossy} of {len(names)} images are stored with lossy compression, which changes every metric",) if lossy else ()
    return Source(path, kind, len(names), found[0], read, members, labels, classes, notes)
