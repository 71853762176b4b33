"""The states of a run on disk: copied aside at once, written whole in the background, checked before they are trusted."""

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from reals import files

KEPT = 2  # rolling states besides the milestones'


class States:
    """The folder of one run's states; `step_<n>.pt` counts once its `.sha256` stands beside it.

    The last two are kept, and those of the steps in ``keep``. One process uses it to write, any to read.
    """

    def __init__(self, folder: Path, keep: Collection[int] = ()):
        self.folder, self.keep = folder, keep
        self.stalled = 0.0  # seconds that training waited for `save`
        self.written, self.bytes = 0, 0
        self._host: dict = {}
        self._writer: threading.Thread | None = None
        self._failure: OSError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """However training ended, the last state is on disk, or OSError says that it is not."""
        self.wait()

    def path(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}.pt"

    def steps(self) -> list[int]:
        return sorted(int(p.stem.removeprefix("step_")) for p in self.folder.glob("step_*.sha256"))

    def upto(self, step: int) -> list[int]:
        return [s for s in self.steps() if s <= step]

    def tidy(self) -> None:
        """Removes what a killed writer left behind."""
        whole = {self.path(step).name for step in self.steps()}
        for path in [*self.folder.glob(".*.partial"), *self.folder.glob("step_*.pt")]:
            if path.name not in whole:
                path.unlink(missing_ok=True)

    def newest(self, upto: int) -> int:
        """The newest whole state not beyond ``upto``; 0 where there is none. A damaged one is said loudly and passed over."""
        for step in reversed(self.upto(upto)):
            path = self.path(step)
            expected = path.with_suffix(".sha256").read_text().strip()
            if path.exists() and files.sha256(path) == expected:
                return step
            print(f"WARNING: {path} is damaged (checksum differs); going back to the state before it", flush=True)
        return 0

    def read(self, step: int, mapped: bool = False) -> dict:
        """A state in host memory. ``mapped``: as pages of the file, which the processes of a node share and the kernel takes back,
        for one that is copied to a device at once; it must not be kept, since the file may go.
        """
        return torch.load(self.path(step), map_location="cpu", weights_only=True, mmap=mapped)

    @property
    def busy(self) -> bool:
        """Whether the last state is still being written."""
        return self._writer is not None and self._writer.is_alive()

    def save(self, step: int, state: dict) -> None:
        """Copies ``state`` to host memory and writes it in the background; waits for the writing of the one before."""
        began = time.monotonic()
        self.wait()
        self._host = snapshot(state, self._host)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.stalled += time.monotonic() - began
        # Not a daemon: an exception elsewhere must not cut the writing short.
        self._writer = threading.Thread(target=self._write, args=(step, self._host))
        self._writer.start()

    def wait(self) -> None:
        """Until the last state is on disk; raises OSError (one line) where it could not be written."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        self.check()

    def check(self) -> None:
        """Raises what the writing in the background failed with, if it did."""
        if self._failure is not None:
            raise self._failure

    def _write(self, step: int, state: dict) -> None:
        path, digest = self.path(step), _Digest()
        try:
            files.write_atomically(path, lambda partial: digest.save(state, partial))
            files.write_text(path.with_suffix(".sha256"), digest.hash.hexdigest())
        except OSError as error:
            self._failure = self._explained(error, step, state)
            return
        self.written, self.bytes = self.written + 1, digest.bytes
        # States of later steps exist where an earlier milestone was added after training had gone further: they are neither
        # counted among the last ones nor deleted here.
        for old in self.upto(step)[:-KEPT]:
            if old not in self.keep:
                self.path(old).with_suffix(".sha256").unlink(missing_ok=True)
                self.path(old).unlink(missing_ok=True)

    def _explained(self, error: OSError, step: int, state: dict) -> OSError:
        good = self.upto(step)
        kept = f"the last good state is that of step {good[-1]}" if good else "there is no earlier state"
        if error.errno not in files.NO_ROOM:
            return OSError(
                error.errno, f"{self.folder}: the state of step {step} could not be written ({error.strerror}); {kept}"
            )
        free = shutil.disk_usage(self.folder).free
        return OSError(
            error.errno,
            f"{self.folder}: no room for the state of step {step}, which needs {size(state):,} bytes ({free:,} free, or a quota "
            f"or file size limit is reached); {kept}; make room and run the same command again",
        )


def size(value: object) -> int:
    """Bytes of all tensors in a state."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(size, value.values()))
    return sum(map(size, value)) if isinstance(value, list | tuple) else 0


def snapshot(value: Any, into: Any = None) -> Any:
    """A copy in host memory, into the tensors of an earlier snapshot where they fit; CUDA copies are only enqueued."""
    if isinstance(value, Tensor):
        if not (isinstance(into, Tensor) and into.shape == value.shape and into.dtype == value.dtype):
            into = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda, requires_grad=False)
        return into.copy_(value.detach(), non_blocking=True)
    if isinstance(value, dict):
        old = into if isinstance(into, dict) else {}
        return {k: snapshot(v, old.get(k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        parts = into if isinstance(into, list | tuple) and len(into) == len(value) else [None] * len(value)
        return type(value)(snapshot(v, part) for v, part in zip(value, parts, strict=True))
    return value


class _Digest:
    """Hashes what is written as it is written: a state is not read again, and the checksum is of what was meant."""

    def __init__(self) -> None:
        self.hash, self.bytes = hashlib.sha256(), 0
        self.failure: OSError | None = None

    def save(self, state: dict, path: Path) -> None:
        with path.open("wb") as self.file:
            try:
                torch.save(state, self)  # type: ignore[arg-type] # it needs write and flush; its stub asks for a whole IO
            except RuntimeError:
                # torch reports a failed write as its own internal error.
                if self.failure is None:
                    raise
            if self.failure is not None:
                raise self.failure
            self.file.flush()
            os.fsync(self.file.fileno())

    def write(self, data: bytes | memoryview) -> int:
        try:
            if self.failure is None:
                self.file.write(data)
        except OSError as error:
            self.failure = error
            raise
        self.hash.update(data)
        self.bytes += len(data)
        return len(data)

    def flush(self) -> None:
        self.file.flush()
