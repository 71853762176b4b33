"""The learning rate over a training (Table 1)."""

import math

import torch


def cosine(peak: float, step: int, steps: int) -> float:
    """Table 1's schedule: ``peak`` at step 0, half of it in the middle, 0 after ``steps``, along half a cosine."""
    return peak * 0.5 * (1 + math.cos(math.pi * step / steps))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
