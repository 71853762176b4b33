"""Images to be measured, wherever they lie: one ordered set of equal-sized bytes, read in batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reals import files
from reals.machine.cores import cores

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
    members: tuple[Path, ...]  # all files that the images are read from; the checksum is taken over them
    labels: np.ndarray | None = None
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.count

    def batches(self, start: int, stop: int, batch: int) -> Iterator[Tensor]:
        """uint8 tensors [B, 3, H, W] of images start to stop; the next is read while one is in use."""
        spans = [(i, min(i + batch, stop)) for i in range(start, stop, batch)]
        with ThreadPoolExecutor(1) as reader:
            ahead: Future[np.ndarray] | None = None
            for span in [*spans, None]:
                now, ahead = ahead, None if span is None else reader.submit(self.read, *span)
                if now is not None:
                    yield torch.from_numpy(now.result())

    @cached_property
    def sha256(self) -> str:
        """Of the file itself, or of the names and checksums of a folder's files."""
        if self.members == (self.path,):
            return files.sha256(self.path)
        with ThreadPoolExecutor(cores()) as pool:
            digests = pool.map(files.sha256, self.members)
            lines = [f"{m.relative_to(self.path).as_posix()} {d}\n" for m, d in zip(self.members, digests, strict=True)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def size_text(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
