"""Kernel Inception Distance."""

import torch
from torch import Tensor

from reals.measure.metrics.checks import finite_rows, same_width
from reals.rng import generator


def kernel_distance(
    samples: Tensor, reference: Tensor, seed: int, subsets: int = 100, subset_size: int = 1000
) -> tuple[float, float]:
    """(mean, standard deviation over subsets) of the unbiased MMD^2 of samples [N, D] and reference [M, D].

    Kernel (x.y / D + 1)^3, float64; 100 subsets of 1000 rows without replacement. Bińkowski et al. 2018.
    Subset i is drawn from ``rng.generator(seed, "kid", i)``. The estimate is unbiased, so it may be slightly
    negative. ValueError if a set has fewer than ``subset_size`` rows: pass a smaller one.
    """
    finite_rows(samples, "sample features")
    finite_rows(reference, "reference features")
    same_width(samples, reference, "kernel_distance")
    if not 2 <= subset_size <= min(len(samples), len(reference)) or subsets < 1:
        raise ValueError(
            f"kernel_distance: {subsets} subsets of {subset_size} rows from {len(samples)} samples and "
            f"{len(reference)} reference rows; expected at least 1 subset and 2 <= subset_size <= both"
        )
    values = []
    for i in range(subsets):
        draw = generator(seed, "kid", i)
        x = samples[torch.randperm(len(samples), generator=draw)[:subset_size].to(samples.device)]
        y = reference[torch.randperm(len(reference), generator=draw)[:subset_size].to(reference.device)]
        values.append(unbiased_mmd2(x.double(), y.double()))
    value = torch.stack(values)
    return float(value.mean()), float(value.std(correction=0))


def unbiased_mmd2(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased MMD^2 (scalar) of x [m, D] and y [n, D] under the cubic kernel. Gretton et al. 2012, eq. 3."""
    m, n = len(x), len(y)
    k_xx, k_yy, k_xy = _cubic(x, x), _cubic(y, y), _cubic(x, y)
    return (k_xx.sum() - k_xx.trace()) / (m * (m - 1)) + (k_yy.sum() - k_yy.trace()) / (n * (n - 1)) - 2 * k_xy.mean()


def _cubic(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3
