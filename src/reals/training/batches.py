"""Batches: which images a step trains on, batches made ready while the steps before still run, and rows of them."""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from reals import rng
from reals.machine.cores import cores

MOST_THREADS = 4  # decoding has threads of its own, and one draws the noise of 100 steps a second at the papers' batch
Batch = TypeVar("Batch")
Columns = TypeVar("Columns", bound=NamedTuple)
"""A NamedTuple of tensors, arrays and lists with one row a sample, or None for what a batch does not have."""


def data_order(seed: int, step: int, batch: int, n: int) -> list[int]:
    """Indices of one batch: position p of the endless stream is entry p mod n of epoch p // n's permutation."""
    indices: list[int] = []
    position = step * batch
    while len(indices) < batch:
        epoch, offset = divmod(position + len(indices), n)
        indices += _epoch(seed, epoch, n)[offset : offset + batch - len(indices)].tolist()
    return indices


@lru_cache(maxsize=2)  # batches in flight may be of two epochs
def _epoch(seed: int, epoch: int, n: int) -> np.ndarray:
    return rng.permutation(seed, "data order", epoch, n=n)


class Ahead(Generic[Batch]):
    """``make(step)``, a pure function, computed by ``threads`` threads while the steps before still run.

    Steps are to be asked for in order; another step than the next one begins anew there. What `make` raises is raised by the call
    that asks for that step. Each thread holds one batch, so that ``threads`` + 1 are in memory, with the one in use.
    ``waited`` is how many seconds the calls have waited for their batches so far.
    """

    def __init__(self, make: Callable[[int], Batch], threads: int | None = None):
        self.make, self.threads = make, threads or min(cores(), MOST_THREADS)
        self.waited = 0.0
        self._pool: ThreadPoolExecutor | None = None
        self._coming: deque[tuple[int, Future[Batch]]] = deque()

    def __call__(self, step: int) -> Batch:
        began = time.perf_counter()
        if self._coming and self._coming[0][0] != step:
            self.close()
        self._fill(step)
        _, coming = self._coming.popleft()
        batch = coming.result()
        self._fill(step + 1)
        self.waited += time.perf_counter() - began
        return batch

    def _fill(self, step: int) -> None:
        """Batches from ``step`` on are under way."""
        self._pool = self._pool or ThreadPoolExecutor(self.threads, "batches")
        for later in range(step + len(self._coming), step + self.threads):
            self._coming.append((later, self._pool.submit(self.make, later)))

    def close(self) -> None:
        """No thread is left; what was made ahead is dropped. The next call starts anew."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None
        self._coming.clear()


def mirrored(pixels: Tensor, flips: Tensor, device: torch.device) -> Tensor:
    """uint8 images [B, 3, R, R] on the device, left and right exchanged there where ``flips`` [B] is true."""
    pixels, flips = pixels.to(device, non_blocking=True), flips.to(device, non_blocking=True)
    return torch.where(flips[:, None, None, None], pixels.flip(-1), pixels)


def rows_of(batch: Columns, rows: slice) -> Columns:
    """Some rows of every column."""
    return batch._make(column if column is None else column[rows] for column in batch)


def on(batch: Columns, device: torch.device) -> Columns:
    """The batch with its tensors on the device; a GPU gets what is `pinned` in the background."""
    return batch._make(column.to(device, non_blocking=True) if isinstance(column, Tensor) else column for column in batch)


def sent(column: Tensor, device: torch.device) -> Tensor:
    """The column on the device; a GPU gets it in the background."""
    if device.type == "cuda" and column.device.type == "cpu":
        column = column.pin_memory()
    return column.to(device, non_blocking=True)


def pinned(batch: Columns, device: torch.device) -> Columns:
    """The batch in memory that is copied to a GPU in the background; as it is for a CPU."""
    if device.type != "cuda":
        return batch
    return batch._make(column.pin_memory() if isinstance(column, Tensor) else column for column in batch)
