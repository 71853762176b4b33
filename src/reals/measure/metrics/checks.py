"""The one check that every metric makes of its features."""

import torch
from torch import Tensor


def finite_rows(features: Tensor, what: str, first: int = 0) -> Tensor:
    """``features`` unchanged; ValueError unless it is a floating [N, D] tensor, N > 0, of finite numbers.

    ``what`` names the features in the message and ``first`` is the index of row 0 in the whole stream, so
    that the row in the message is the row of the sample file.
    """
    if features.ndim != 2 or len(features) == 0 or not features.is_floating_point():
        raise ValueError(f"{what}: got {features.dtype} {tuple(features.shape)}, expected floating [N, D] with N > 0")
    bad = ~torch.isfinite(features).all(dim=1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"{what}: row {first + row} is not finite ({int(bad.sum())} of {len(features)} rows); "
            "look at that sample, do not drop it"
        )
    return features


def same_width(a: Tensor, b: Tensor, what: str) -> None:
    """ValueError unless both [N, D] tensors have the same D."""
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"{what}: features are {a.shape[1]} and {b.shape[1]} wide; use one feature extractor for both")
