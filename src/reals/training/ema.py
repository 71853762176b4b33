"""The exponential moving average of weights."""

from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def update_ema(ema: list[Tensor], parameters: Iterable[Tensor], decay: float) -> None:
    """ema <- decay * ema + (1 - decay) * parameters."""
    torch._foreach_lerp_(ema, list(parameters), 1 - decay)
