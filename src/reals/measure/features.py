"""Images in batches, as feature extractors take them."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from reals.data.images import Images

BATCH = 256


def batches(array: np.ndarray | Images, count: int | None = None) -> Iterator[Tensor]:
    """uint8 [B, 3, H, W] tensors over an array of images or a data split."""
    total = len(array) if count is None else count
    for start in range(0, total, BATCH):
        stop = min(start + BATCH, total)
        block = array.batch(np.arange(start, stop)) if isinstance(array, Images) else np.array(array[start:stop])
        yield torch.from_numpy(block)
