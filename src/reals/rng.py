"""Random numbers as a function of (seed, purpose, index), never of process count, batching or history."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def key(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit integer that depends on all arguments and on nothing else (blake2b, so the same in every process)."""
    text = ":".join([str(int(seed)), purpose, *(str(int(i)) for i in index)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, purpose: str, *index: int) -> "torch.Generator":
    """A CPU generator for one purpose, e.g. ``generator(seed, "time", step)``."""
    import torch  # here: what lists a data set is looked through before each run, and most draw nothing

    return torch.Generator().manual_seed(key(seed, purpose, *index))


def permutation(seed: int, purpose: str, *index: int, n: int) -> np.ndarray:
    """A permutation of 0..n-1 (int64), e.g. the data order of one epoch."""
    import torch

    return torch.randperm(n, generator=generator(seed, purpose, *index)).numpy()
