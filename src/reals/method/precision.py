"""In what precision networks compute: their matrix products and convolutions; weights, losses and results stay float32."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
"""``tf32``: float32 storage, 10-bit mantissa in products, on GPUs that have it; ``bf16`` and ``fp16``: by autocast."""


def described(precision: str) -> str:
    """For who reads the numbers: a CPU and older GPUs have no TF32, and compute in fp32."""
    return "tf32, on GPUs that have it" if precision == "tf32" else precision


def check(precision: str) -> None:
    """ValueError for a name that is none of ``PRECISIONS``."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision: got {precision!r}, expected one of {', '.join(PRECISIONS)}")


def allow_tf32(allowed: bool) -> None:
    """Whether float32 products and convolutions may round to TF32 (10 bits) on GPUs that have it. cuDNN does unless told
    otherwise, and features, decoded images and scores would differ from a CPU's."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Around networks' calls, not around losses: bf16 or fp16 products on this device; does nothing for fp32 and tf32."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


@contextmanager
def running(device: torch.device, precision: str) -> Iterator[None]:
    """Around networks' calls on this device: products in ``precision``, and TF32 allowed for tf32 alone; afterwards as before.

    What networks return may be half precision: widen it before it is added up. ValueError for an unknown precision.
    """
    check(precision)
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    allow_tf32(precision == "tf32")
    try:
        with autocast(device, precision):
            yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
