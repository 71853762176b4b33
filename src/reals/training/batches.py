"""Batches: which images a step trains on, its batch made ready while the step before still runs, and rows of it."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from reals import rng

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


@lru_cache(maxsize=1)
def _epoch(seed: int, epoch: int, n: int) -> np.ndarray:
    return rng.permutation(seed, "data order", epoch, n=n)


class Ahead(Generic[Batch]):
    """``make(step)``, a pure function, computed in a thread one step before it is asked for."""

    def __init__(self, make: Callable[[int], Batch]):
        self.make, self.pool = make, ThreadPoolExecutor(1)
        self.next: tuple[int, Future[Batch]] | None = None

    def __call__(self, step: int) -> Batch:
        if self.next is None or self.next[0] != step:
            self.next = step, self.pool.submit(self.make, step)
        batch = self.next[1].result()
        self.next = step + 1, self.pool.submit(self.make, step + 1)
        return batch


def rows_of(batch: Columns, rows: slice) -> Columns:
    """Some rows of every column."""
    return batch._make(column if column is None else column[rows] for column in batch)


def pinned(batch: Columns, device: torch.device) -> Columns:
    """The batch in memory that is copied to a GPU in the background; as it is for a CPU."""
    if device.type != "cuda":
        return batch
    return batch._make(column.pin_memory() if isinstance(column, Tensor) else column for column in batch)
