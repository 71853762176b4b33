"""One format for what is computed once per image and then read at random: float16 shards, memory-mapped, and an index.

Shard k holds images k*S to k*S + S - 1. Each field of it is one contiguous ``<field>_<k>.npy``, float16
[images, flips, *row]: the rows of image i are (plain, mirrored). ``shard_<k>.json`` says what the shard was made from and
holds its checksums and partial sums; it is written last, so a shard without it does not count. ``index.json`` is written
once all shards are there.

Any number of processes fill one folder: each takes the first shard nobody holds, by a record lock on byte k of
``.claims``, which the kernel drops when its process ends, however it ends. What comes out does not depend on how many there were.

The claims are by hand, and not a scatter of Snakemake's as `sample` has it, because one job fills a cache with all GPUs it is
given: a scatter would fix the cut when the DAG is made, start (and queue) a job and load the network once for each piece, and
leave a GPU idle when its piece is done first, to save some forty lines of the locks.
"""

import errno
import fcntl
import hashlib
import io
import math
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from reals import files
from reals.data.dataset import Images, Indices
from reals.machine.usage import work
from reals.progress import Progress

SHARD_IMAGES = 4096  # 313 shards of ImageNet: few enough to keep all open, and a killed process loses half a minute
DTYPE = np.dtype("<f2")
BATCH = 64  # images whose rows a stage computes at a time
POLL_SECONDS = 1.0  # between looks for a shard that another process left, or has finished
HASHING_THREADS = 8

Put = Callable[..., None]  # put(field=array, ...), arrays [b, flips, *row], in the order of the images


def amount(count: float) -> str:
    """A number of bytes to three digits or so, in decimal units: 20971520 -> '21.0 MB'."""
    power = min(int(math.log10(max(count, 1))) // 3, 5)
    return f"{count / 1000**power:.{1 if power else 0}f} {('bytes', 'kB', 'MB', 'GB', 'TB', 'PB')[power]}"


Facts = dict[str, Any]
"""What is known of a shard or of the whole cache, as JSON holds it."""


@dataclass(frozen=True)
class Layout:
    """How many images, rows per image (1: plain; 2: plain and mirrored), and the shape of one row of each field."""

    images: int
    flips: int
    fields: dict[str, tuple[int, ...]]
    shard_images: int = SHARD_IMAGES

    def __len__(self) -> int:
        """The number of shards."""
        return -(-self.images // self.shard_images)

    def span(self, k: int) -> range:
        """The images of shard k."""
        return range(k * self.shard_images, min((k + 1) * self.shard_images, self.images))

    def names(self, k: int) -> dict[str, str]:
        return {field: f"{field}_{k:05d}.npy" for field in self.fields}

    @property
    def image_bytes(self) -> int:
        return self.flips * sum(math.prod(row) for row in self.fields.values()) * DTYPE.itemsize

    @property
    def bytes(self) -> int:
        return self.images * self.image_bytes

    def cost(self) -> str:
        """The size of the cache as a product a reader can check."""
        rows = " + ".join(f"{name} {' x '.join(map(str, row))}" for name, row in self.fields.items())
        return f"{self.images:,} images x {self.flips} flips x ({rows}) x {DTYPE.itemsize} bytes = {amount(self.bytes)}"

    def stated(self) -> Facts:
        return {**asdict(self), "fields": {name: list(row) for name, row in self.fields.items()}}


def make(
    folder: Path,
    layout: Layout,
    source: Facts,
    compute: Callable[[range, Put], Facts],
    summarise: Callable[[list[Facts]], Facts],
    label: str,
) -> None:
    """Fills ``folder`` together with whoever else is at it, and seals it; returns when it is sealed.

    ``compute(images, put)`` hands the rows of a shard's images to ``put``, in order, in as many calls as it likes, and
    returns the shard's facts; ``summarise`` gets those of all shards, in order, and returns what the index holds beside
    ``source``, which names what the cache is made from. A shard that is there stays, unless its checksum is wrong; all
    are checked before the index is written. ValueError where the folder was begun from another source, the disk is too
    small, or a row is not finite in float16.
    """
    if (folder / files.MANIFEST).exists():
        try:
            sealed = files.opened(folder)
            _refuse_others(folder / files.MANIFEST, sealed, source | layout.stated() | {"shard_images": sealed["shard_images"]})
            return
        except files.MissingArtefact as damage:
            print(f"{damage}; making what is missing", flush=True)
            (folder / files.MANIFEST).unlink(missing_ok=True)
    records: dict[int, Facts] = {}
    mine: set[int] = set()
    _look(folder, layout, source, records)
    _refuse_small_disk(folder, layout, records, label)
    done = sum(len(layout.span(k)) for k in records)
    progress = Progress(label, layout.images, done)
    with (folder / ".claims").open("a+b") as claims, work():
        while not (folder / files.MANIFEST).exists():
            _look(folder, layout, source, records)
            for k in range(len(layout)):
                if k in records:
                    continue
                with _claim(claims, k) as free:
                    if free and not _look(folder, layout, source, records, k):
                        records[k] = _write(folder, layout, k, source, compute, progress, records)
                        mine.add(k)
            if len(records) < len(layout):
                time.sleep(POLL_SECONDS)
                continue
            with _claim(claims, len(layout)) as free:
                if not free:
                    time.sleep(POLL_SECONDS)
                elif not (folder / files.MANIFEST).exists() and not _drop_damaged(folder, records, set(records) - mine):
                    ordered = [records[k] for k in range(len(layout))]
                    known = {name: facts for record in ordered for name, facts in record["files"].items()}
                    summary = summarise([record["facts"] for record in ordered])
                    files.write_manifest(folder, known, **source, **layout.stated(), **summary)
                    (folder / ".claims").unlink(missing_ok=True)


def _look(folder: Path, layout: Layout, source: Facts, records: dict[int, Facts], only: int | None = None) -> bool:
    """Reads the records that are new into ``records``; whether shard ``only`` is among them."""
    for k in range(len(layout)) if only is None else [only]:
        path = folder / f"shard_{k:05d}.json"
        if k not in records and path.exists():
            record = files.read_json(path)
            _refuse_others(path, record, source | layout.stated())
            if all(_size(folder / name) == facts["bytes"] for name, facts in record["files"].items()):
                records[k] = record
    return only in records


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


def _refuse_others(path: Path, record: Facts, wanted: Facts) -> None:
    for key, value in wanted.items():
        if record.get(key) != value:
            raise ValueError(
                f"{path}: this cache was made with {key} {record.get(key)}, now it is {value}; move {path.parent} away and run again"
            )


def _refuse_small_disk(folder: Path, layout: Layout, records: dict[int, Facts], label: str) -> None:
    left = layout.image_bytes * (layout.images - sum(len(layout.span(k)) for k in records))
    free = shutil.disk_usage(folder).free
    print(f"{label}: {layout.cost()}; {amount(left)} to write, {amount(free)} free", flush=True)
    if left > free:
        raise ValueError(
            f"{folder}: {amount(left)} are still to be written, the disk has {amount(free)} free; "
            f"free some, link the folder to a larger disk, or (features) set features: online in the scale file"
        )


@contextmanager
def _claim(claims: IO[bytes], byte: int) -> Iterator[bool]:
    """Holds one byte of the claims file against other processes, on other nodes too; yields False where another holds it."""
    try:
        fcntl.lockf(claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise ValueError(
                f"{claims.name}: this file system cannot lock files ({error.strerror}); mount it with locks (Lustre: -o flock), "
                f"or put results/ elsewhere"
            ) from None
        yield False
        return
    try:
        yield True
    finally:
        fcntl.lockf(claims, fcntl.LOCK_UN, 1, byte)


def _write(
    folder: Path,
    layout: Layout,
    k: int,
    source: Facts,
    compute: Callable[[range, Put], Facts],
    progress: Progress,
    records: dict[int, Facts],
) -> Facts:
    """Makes shard k: its fields first, each renamed into place when whole, its record last."""
    span, names = layout.span(k), layout.names(k)
    for name in names.values():
        files.sweep(folder / name)
    before = sum(len(layout.span(j)) for j in records)
    written = 0
    with ExitStack() as stack:
        partials = {field: stack.enter_context(files.replacing(folder / name)) for field, name in names.items()}
        with ExitStack() as closing:
            streams = {field: closing.enter_context(partial.open("wb")) for field, partial in partials.items()}
            digests = {field: hashlib.sha256() for field in names}

            def append(field: str, block: bytes | memoryview) -> None:
                streams[field].write(block)
                digests[field].update(block)

            for field, row in layout.fields.items():
                append(field, array_header((len(span), layout.flips, *row), DTYPE))

            def put(**arrays: np.ndarray) -> None:
                nonlocal written
                lengths = {len(array) for array in arrays.values()}
                assert set(arrays) == set(layout.fields) and len(lengths) == 1
                for field, array in arrays.items():
                    assert array.shape[1:] == (layout.flips, *layout.fields[field])
                    with np.errstate(over="ignore"):
                        block = np.ascontiguousarray(array, DTYPE)
                    if not np.isfinite(block).all():
                        first = span.start + written
                        raise ValueError(
                            f"{folder}: {field} of images {first} to {first + len(block) - 1} do not fit float16 or are not finite; "
                            f"look at the log of what made them ({', '.join(map(str, source.values()))})"
                        )
                    append(field, block.data)
                written += lengths.pop()
                progress.update(before + written)

            facts = compute(span, put)
            assert written == len(span), f"{written} rows for {len(span)} images"
        sizes = {field: partial.stat().st_size for field, partial in partials.items()}
    record = {
        **source,
        **layout.stated(),
        "files": {names[f]: {"bytes": sizes[f], "sha256": digests[f].hexdigest()} for f in names},
        "facts": facts,
    }
    files.write_json(folder / f"shard_{k:05d}.json", record)
    return record


def array_header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """What a .npy file begins with, before the rows of an array that is never whole in memory."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    return out.getvalue()


def _drop_damaged(folder: Path, records: dict[int, Facts], suspects: set[int]) -> bool:
    """Forgets the shards among ``suspects`` whose files are not those of their records; whether there were any."""
    found = [(k, name, facts) for k in sorted(suspects) for name, facts in records[k]["files"].items()]
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        whole = pool.map(lambda f: _size(folder / f[1]) == f[2]["bytes"] and files.sha256(folder / f[1]) == f[2]["sha256"], found)
        damaged = {k: name for (k, name, _), good in zip(found, whole, strict=True) if not good}
    for k, name in damaged.items():
        print(f"{folder / name}: damaged (its checksum is not that of its record); made again", flush=True)
        (folder / f"shard_{k:05d}.json").unlink(missing_ok=True)
        del records[k]
    return bool(damaged)


class Cache:
    """The rows of a sealed cache by image index.

    Raises (one line) MissingArtefact where a file is gone or cut, ValueError where the folder holds another cache, or one
    that was not made from ``images``, a prepared data set.
    """

    def __init__(self, folder: Path, images: Images | None = None):
        self.manifest = m = files.opened(folder)
        if m.get("id") != folder.name:
            raise ValueError(f"{folder} holds the cache of {m.get('id')}; move it away and run again")
        if images is not None and (m["data_sha256"], m["images"]) != (images.fingerprint(), len(images)):
            raise ValueError(
                f"{folder} was made from {m['images']} images of other files than the {len(images)} there are now; move it away and run again"
            )
        self.layout = Layout(m["images"], m["flips"], {name: tuple(row) for name, row in m["fields"].items()}, m["shard_images"])
        self._maps: dict[str, list[memoryview]] = {field: [] for field in self.layout.fields}
        for k in range(len(self.layout)):
            for field, name in self.layout.names(k).items():
                mapped = np.load(folder / name, mmap_mode="r")
                assert mapped.shape == (len(self.layout.span(k)), self.layout.flips, *self.layout.fields[field])
                self._maps[field].append(mapped.reshape(-1).view(np.uint8).data)

    def __len__(self) -> int:
        return self.layout.images

    def rows(self, field: str, indices: Indices, flips: Indices) -> np.ndarray:
        """Rows of the images ``indices``, mirrored where ``flips`` is true: float16 [B, *row]. Copies no other bytes."""
        row, count = self.layout.fields[field], self.layout.flips
        size = math.prod(row) * DTYPE.itemsize
        indices, flips = np.asarray(indices, np.int64), np.asarray(flips, np.int64)
        if len(indices) and not (0 <= indices.min() and indices.max() < len(self) and flips.max() < count):
            raise IndexError(f"{self.manifest['id']} holds {len(self)} images and {count} flips of each")
        shard, place = np.divmod(indices, self.layout.shard_images)
        maps, out = self._maps[field], np.empty((len(indices), *row), DTYPE)
        into, at = out.reshape(-1).view(np.uint8).data, 0
        for k, start in zip(shard.tolist(), ((place * count + flips) * size).tolist(), strict=True):
            into[at : at + size] = maps[k][start : start + size]
            at += size
        return out
