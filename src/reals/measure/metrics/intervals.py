"""Intervals: how far a metric moves when other samples of the same generator are drawn, by the bootstrap and by its limit."""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from reals.measure.metrics.frechet import Moments, Statistics, frechet_distance, optimal_map
from reals.rng import generator

LEVEL = 0.95


class Interval(NamedTuple):
    """``std`` over replicates, and the bounds ``low`` and ``high`` around the measured value."""

    std: float
    low: float
    high: float


def centred_interval(value: float, replicates: Tensor, level: float = LEVEL) -> Interval:
    """The replicates' spread, put around ``value``: their quantiles less their mean, plus the value.

    A bootstrap sample repeats rows, so FID and IS of it are biased (FID upwards, by about as much again as FID
    itself is at this n). Their spread is that of the metric, their place is not, which is why they are centred.
    """
    shifted = replicates.double() - replicates.double().mean()
    edges = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = shifted.quantile(edges).tolist()
    return Interval(float(replicates.double().std(correction=1)), value + low, value + high)


def counts_of(n: int, seed: int, replicate: int) -> Tensor:
    """How often each of n rows is in bootstrap sample ``replicate``: int64 [n], sum n."""
    drawn = torch.randint(n, (n,), generator=generator(seed, "bootstrap", replicate))
    return torch.bincount(drawn, minlength=n)


def bootstrap_share(inside: Tensor, replicates: int, seed: int) -> Tensor:
    """Replicates [B] of the mean of ``inside`` (bool [N]); the balls it was tested against stay as they are."""
    hit = inside.double()
    return torch.stack([(counts_of(len(hit), seed, b).double() @ hit) / len(hit) for b in range(replicates)])


def bootstrap_frechet(features: Tensor, reference: Statistics, replicates: int, seed: int, block: int = 8192) -> Tensor:
    """Replicates [B] of the Fréchet distance of features [N, D] to a reference that stays as it is."""
    values = []
    for b in range(replicates):
        counts = counts_of(len(features), seed, b).double()
        mean = sum(c @ x.double() for c, x in zip(counts.split(block), features.split(block), strict=True)) / len(features)
        scatter = torch.zeros(len(mean), len(mean), dtype=torch.float64)
        for c, x in zip(counts.split(block), features.split(block), strict=True):
            weighted = (x.double() - mean) * c.sqrt()[:, None]
            scatter.addmm_(weighted.T, weighted)
        values.append(frechet_distance(mean, scatter / (len(features) - 1), reference.mu, reference.sigma))
    return torch.tensor(values, dtype=torch.float64)


def frechet_half_width(features: Tensor, reference: Statistics, level: float = LEVEL, block: int = 8192) -> float:
    """Half the width of a normal interval of the Fréchet distance of features [N, D] to a reference that stays as it is.

    The infinitesimal jackknife (Efron 1982), to which the bootstrap's deviation tends: each row's influence is the derivative of
    the distance by the row's weight, 2 (mu - mu_r) c + c (I - A) c - tr((I - A) S) for a row c less the mean, the derivative by the
    covariance S being I - A (:func:`optimal_map`). It takes as long as one more distance. Rows fewer than D leave S without its
    rank, and the interval too small.
    """
    own = Moments.of(features).finalize()
    move, _ = optimal_map(own.sigma, reference.sigma)
    influence = []
    for rows in features.split(block):
        centred = rows.double() - own.mu
        influence.append(2 * centred @ (own.mu - reference.mu) + (centred * (centred - centred @ move)).sum(dim=1))
    deviation = float(torch.cat(influence).std(correction=1)) / len(features) ** 0.5
    return NormalDist().inv_cdf((1 + level) / 2) * deviation


def bootstrap_inception_score(logits: Tensor, split_size: int, replicates: int, seed: int) -> Tensor:
    """Replicates [B] of the Inception Score: rows are drawn within each split of ``split_size`` rows."""
    scores = torch.zeros(replicates, dtype=torch.float64)
    parts = logits.split(split_size)
    for s, part in enumerate(parts):
        log_p = part.double().log_softmax(dim=1)
        p = log_p.exp()
        negative_entropy = (p * log_p).sum(dim=1)
        for b in range(replicates):
            weights = counts_of(len(part), seed, b * len(parts) + s).double() / len(part)
            q = weights @ p
            scores[b] += (weights @ negative_entropy - torch.xlogy(q, q).sum()).exp() / len(parts)
    return scores
