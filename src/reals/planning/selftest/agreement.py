"""When two computations agree: how far apart their numbers are, and how far they may be in each precision."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from reals.planning.selftest.outcome import Fault

Leaves = dict[str, Tensor]
"""Tensors by the name of their place."""


def leaves(value: object, place: str = "") -> Leaves:
    """Every tensor and number in nested dicts and lists, float64 on the CPU, by place."""
    if isinstance(value, Tensor):
        return {place: value.detach().to("cpu", torch.float64, copy=True)}
    if isinstance(value, bool | int | float):
        return {place: torch.tensor(float(value), dtype=torch.float64)}
    inner: Mapping = value if isinstance(value, Mapping) else dict(enumerate(value)) if isinstance(value, list | tuple) else {}
    found: Leaves = {}
    for key, part in inner.items():
        found |= leaves(part, f"{place}.{key}" if place else str(key))
    return found


def distance(got: Tensor, wanted: Tensor) -> float:
    """||got - wanted|| / ||wanted||: NaN where a value is not finite, 0 where both are zero."""
    difference, size = float(torch.linalg.vector_norm(got - wanted)), float(torch.linalg.vector_norm(wanted))
    if not math.isfinite(difference):
        return math.nan
    return difference / size if size else (0.0 if difference == 0 else math.inf)


def same_bits(got: Leaves, wanted: Leaves, what: str) -> None:
    """Fault where a value differs at all, or names do."""
    if got.keys() != wanted.keys():
        raise Fault(f"{what}: not the same tensors: {', '.join(sorted(got.keys() ^ wanted.keys())[:3])}")
    for name, value in wanted.items():
        if not torch.equal(got[name], value):
            raise Fault(f"{what}: {name} differs by {distance(got[name], value):.1e} (relative)")


def within(found: float, allowed: float, what: str) -> float:
    """The distance ``found``; Fault where it is more than ``allowed``, or not a number."""
    if not found <= allowed:
        raise Fault(f"{what}: {found:.1e} apart, {allowed:.0e} allowed")
    return found
