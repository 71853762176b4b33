"""How much of the Fréchet distance each class of samples accounts for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reals.measure.metrics.frechet import Moments, Statistics, optimal_map

_BLOCK = 8192


@dataclass(frozen=True)
class Contributions:
    """``share`` [K] float64, ``count`` [K] and ``remainder``: shares and remainder sum to the Fréchet distance."""

    share: Tensor
    count: Tensor
    remainder: float


def class_contributions(features: Tensor, labels: Tensor, classes: int, reference: Statistics) -> Contributions:
    """The Fréchet distance of features [N, D] to ``reference``, split exactly by class (labels int64 [N]).

    The distance is the least mean squared move that turns the samples' Gaussian into the reference's; the move is
    linear, T(x) = mu_r + A (x - mu) (:func:`optimal_map`). A class's share is the sum over its samples of
    |x' - T(x')|^2 / N, x' being x with its distance from mu multiplied by sqrt(N / (N - 1)), which makes up for the
    covariance's divisor. It is never negative, and large for a class that is frequent, or whose samples are far from
    where the reference has such features. It is not the FID of the class alone. Where N <= D the samples span fewer
    dimensions than the reference: the reference's variance in the others can be put down to no sample and is the
    ``remainder``, else 0.
    """
    if labels.shape != (len(features),) or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"labels: {tuple(labels.shape)} from {int(labels.min())} to {int(labels.max())}, "
            f"expected {len(features)} in 0..{classes - 1}"
        )
    n, own_statistics = len(features), Moments.of(features).finalize()
    mu, (move, remainder) = own_statistics.mu, optimal_map(own_statistics.sigma, reference.sigma)
    share = torch.zeros(classes, dtype=torch.float64)
    for rows, own_labels in zip(features.split(_BLOCK), labels.split(_BLOCK), strict=True):
        centred = (rows.double() - mu) * (n / (n - 1)) ** 0.5
        cost = (mu - reference.mu + centred - centred @ move).square().sum(dim=1) / n
        share.index_add_(0, own_labels, cost)
    return Contributions(share, torch.bincount(labels, minlength=classes), remainder)
