"""Arrays of numbers as images: what their values mean, which axis is which, and reading a part of them."""

import bisect
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from reals.measure.source import Read

RANGES = ("bytes", "unit", "signed")


def to_bytes(images: np.ndarray, value_range: str, where: str) -> np.ndarray:
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


def check_type(dtype: np.dtype, value_range: str, where: str) -> None:
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


def channels_first(shape: tuple[int, ...], where: str, either: bool = False) -> bool:
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


def slicer(array: np.ndarray, channels_first: bool, value_range: str, where: str) -> Read:
    def read(start: int, stop: int) -> np.ndarray:
        images = to_bytes(np.array(array[start:stop]), value_range, f"{where}, images {start} to {stop - 1}")
        return images if channels_first else np.ascontiguousarray(images.transpose(0, 3, 1, 2))

    return read


def joined(parts: Sequence[tuple[int, Read]]) -> tuple[int, Read]:
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
