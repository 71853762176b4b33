"""Images in numpy files: our shards, one .npy, ADM's .npz, a list of arrays in an .npz."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from reals.measure.source import Read, Source, size_text
from reals.measure.sources.archive import DAMAGE, whole
from reals.measure.sources.numbers import channels_first, check_type, joined, slicer

KNOWN = {"arr_0", "arr_1", "labels", "mu", "sigma", "mu_s", "sigma_s"}  # arrays of ADM's .npz, and another name for its labels
NAMED = 3  # of those that are left unread


def _memmap(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        reason = "holds Python objects, which are not read" if "pickle" in str(error) else f"truncated or no .npy ({error})"
        raise ValueError(f"{path}: {reason}; make it again") from None


def shards_source(path: Path, shards: list[Path], value_range: str) -> Source:
    numbers = [int(m[1]) for m in (re.fullmatch(r"shard_(\d+)\.npy", s.name) for s in shards) if m]
    if numbers != list(range(len(shards))):
        gap = next(i for i, number in enumerate([*numbers, -1]) if number != i)
        raise ValueError(f"{path}: {len(shards)} shards, but no shard_{gap:03d}.npy; draw that shard first")
    arrays = [_memmap(s) for s in shards]
    for shard, array in zip(shards, arrays, strict=True):
        check_type(array.dtype, value_range, str(shard))
        if array.ndim != 4 or array.shape[1] != 3 or array.shape[1:] != arrays[0].shape[1:]:
            raise ValueError(f"{shard}: shape {array.shape}, expected [N, 3, H, W] with the size of {shards[0].name}")
    count, read = joined(
        [(len(a), slicer(a, True, value_range, str(s))) for a, s in zip(arrays, shards, strict=True) if len(a)] or _nothing(path)
    )
    height, width = arrays[0].shape[2:]
    return Source(path, "shards", count, (height, width), read, tuple(shards))


def _nothing(path: Path) -> list:
    raise ValueError(f"{path}: no images")


def npy_source(path: Path, value_range: str) -> Source:
    array = _memmap(path)
    check_type(array.dtype, value_range, str(path))
    first = channels_first(array.shape, str(path), either=True)
    height, width = array.shape[2:] if first else array.shape[1:3]
    return Source(path, "array", len(array), (height, width), slicer(array, first, value_range, str(path)), (path,))


def npz_source(path: Path, archive: zipfile.ZipFile, value_range: str) -> Source:
    names = [n.removesuffix(".npy") for n in archive.namelist()]
    if "arr_0" not in names:
        kind = "statistics, not images" if "mu" in names else "not images in ADM's layout; np.savez(path, images) writes it"
        raise ValueError(f"{path}: holds {', '.join(names[:6])} but no arr_0; these are {kind}")
    shape, dtype = _header(path, archive, "arr_0")[:2]
    check_type(dtype, value_range, f"{path}: arr_0")
    listed = sorted((n for n in names if re.fullmatch(r"arr_\d+", n)), key=lambda n: int(n[4:]))
    if len(shape) == 3 or (len(listed) > 1 and len(_header(path, archive, listed[1])[0]) == 4):
        if gap := next((f"arr_{i}" for i, n in enumerate(listed) if n != f"arr_{i}"), None):
            raise ValueError(f"{path}: {len(listed)} arrays of images up to {listed[-1]}, but no {gap}; make the file again")
        return _listed(path, archive, listed, value_range)
    if channels_first(shape, f"{path}: arr_0"):
        raise AssertionError("refused above")
    labels, notes = _labels(path, archive, names, shape[0])
    if beside := [n for n in names if n not in KNOWN]:
        notes += (f"{', '.join(beside[:NAMED])}{', ...' * (len(beside) > NAMED)} beside arr_0: left unread",)
    count, height, width, _ = shape
    return Source(
        path, "npz", count, (height, width), _member(path, archive, "arr_0", value_range), (path,), labels, notes=notes
    )  # fmt: skip


def _header(path: Path, archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype, bool, int]:
    """(shape, dtype, Fortran order, length of the header) of a member."""
    try:
        with archive.open(f"{name}.npy") as member:
            version = np.lib.format.read_magic(member)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(member)
            length = member.tell()
    except (*DAMAGE, ValueError) as error:
        raise ValueError(f"{path}: {name} is damaged ({error}); copy or make the file again") from None
    stored = archive.getinfo(f"{name}.npy").file_size
    expected = length + int(np.prod(shape)) * dtype.itemsize
    if not dtype.hasobject and stored != expected:
        raise ValueError(f"{path}: {name} holds {stored} bytes, its header asks for {expected}; make the file again")
    return shape, dtype, fortran, length


def _labels(path: Path, archive: zipfile.ZipFile, names: list[str], count: int) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """(class labels, notes): ADM writes them as arr_1; ``labels`` is taken as well. One column and one-hot rows are labels too;
    anything else is left unread and noted, since few metrics need labels."""
    name = next((n for n in ("arr_1", "labels") if n in names), None)
    if name is None:
        return None, ()
    shape, dtype = _header(path, archive, name)[:2]
    if dtype.hasobject:
        raise ValueError(f"{path}: {name} holds Python objects, which are not read; save whole numbers")
    if dtype.kind in "iu" and shape[:1] != (count,):
        raise ValueError(f"{path}: {name} is {dtype} {shape}, expected {count} integer class labels")
    if dtype.kind in "biuf" and shape[:1] == (count,):
        with whole(path), np.load(path, allow_pickle=False) as arrays:
            labels = class_labels(arrays[name])
        if labels is not None:
            return labels, ()
    return None, (f"{name} is {dtype} {shape}, not {count} class labels: left unread",)


def class_labels(given: np.ndarray) -> np.ndarray | None:
    """int64 [N] of whole numbers [N] or [N, 1], or one-hot rows [N, K]; None for anything else."""
    if given.dtype.kind in "iu" and given.shape in ((len(given),), (len(given), 1)):
        fits = not given.size or given.max() <= np.iinfo(np.int64).max
        return given.reshape(len(given)).astype(np.int64) if fits else None
    if given.dtype.kind in "biuf" and given.ndim == 2 and ((given == 0) | (given == 1)).all() and (given.sum(1) == 1).all():
        return given.argmax(1).astype(np.int64)
    return None


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
        return slicer(np.memmap(path, dtype, "r", offset, shape), False, value_range, where)
    return _streamed(archive, info, shape[1:], dtype, length, value_range, where)


def _streamed(
    archive: zipfile.ZipFile,
    info: zipfile.ZipInfo,
    image: tuple[int, ...],
    dtype: np.dtype,
    header: int,
    value_range: str,
    where: str,
) -> Read:
    """A reader of a compressed member: forward from the image it is at, from the start again for an earlier one."""
    row = int(np.prod(image)) * dtype.itemsize
    stream: IO[bytes] | None = None
    at = 0  # the image that the stream has come to

    def read(start: int, stop: int) -> np.ndarray:
        nonlocal stream, at
        try:
            if stream is None or start < at:
                stream, at = archive.open(info), 0
                stream.read(header)
            for _ in range(at, start):
                stream.read(row)
            data = stream.read((stop - start) * row)
            at = stop
            if len(data) != (stop - start) * row:
                raise EOFError("the data end early")
        except DAMAGE as error:
            raise ValueError(f"{where}: damaged before image {stop} ({error}); copy or make the file again") from None
        images = np.frombuffer(data, dtype).reshape(stop - start, *image)
        return slicer(images, False, value_range, f"{where} from image {start}")(0, stop - start)

    return read


def _listed(path: Path, archive: zipfile.ZipFile, names: list[str], value_range: str) -> Source:
    """arr_0, arr_1, ...: a list of images [H, W, 3] or of batches [N, H, W, 3]."""
    arrays = np.load(path, allow_pickle=False)
    parts: list[tuple[int, Read]] = []
    size: tuple[int, int] | None = None
    for name in names:
        shape, dtype = _header(path, archive, name)[:2]
        where = f"{path}: {name}"
        check_type(dtype, value_range, where)
        single = len(shape) == 3
        if single and shape[2] != 3:
            raise ValueError(f"{where}: shape {shape}, expected [H, W, 3] or [N, H, W, 3]")
        count, height, width, _ = checked = (1, *shape) if single else shape
        channels_first(checked, where)
        size = size or (height, width)
        if (height, width) != size:
            raise ValueError(f"{where}: {size_text((height, width))}, arr_0 is {size_text(size)}; all images must have one size")
        # A batch is read as it is needed, not whole for each of ours.
        parts.append((count, _single(path, arrays, name, value_range) if single else _member(path, archive, name, value_range)))
    total, read = joined(parts)
    assert size is not None
    return Source(path, "list of arrays", total, size, read, (path,))


def _single(path: Path, arrays: Mapping[str, np.ndarray], name: str, value_range: str) -> Read:
    """A reader of one image [H, W, 3]."""

    def read(start: int, stop: int) -> np.ndarray:
        with whole(path):
            array = arrays[name]
        return slicer(array[None], False, value_range, f"{path}: {name}")(start, stop)

    return read
