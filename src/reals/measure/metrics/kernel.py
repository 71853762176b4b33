"""Maximum mean discrepancies: Kernel Inception Distance, and CMMD."""

import torch
from torch import Tensor

from reals.measure.metrics.checks import finite_rows, same_width
from reals.rng import generator

SUBSET = 1000  # rows of a subset, as in torch-fidelity


def subset_size(samples: int, reference: int) -> int:
    """Rows of each of KID's subsets: 1,000, or half of the smaller set where that is fewer, so that subsets differ."""
    return max(2, min(SUBSET, samples // 2, reference // 2))


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


CMMD_SIGMA, CMMD_SCALE = 10, 1000


def cmmd(samples: Tensor, reference: Tensor, block: int = 1024) -> float:
    """CMMD of image embeddings [N, D] and [M, D]: 1000 MMD^2 under the kernel exp(-|x - y|^2 / 200), each row of length 1.

    The biased, minimum-variance estimate of Gretton et al. 2012, eq. 5 (all pairs, a row's with itself too), float64, as in the
    authors' code (Jayasumana et al. 2024). Rows are divided by their lengths here, as the authors' embedding is. ``block`` rows at
    a time, so that no N x N matrix is held. ValueError for rows that are not finite, or of no length, and for unequal widths.
    """
    finite_rows(samples, "sample features")
    finite_rows(reference, "reference features")
    same_width(samples, reference, "cmmd")
    x, y = (rows.double() / rows.double().norm(dim=1, keepdim=True) for rows in (samples, reference))
    finite_rows(x, "sample features of length 1")
    finite_rows(y, "reference features of length 1")
    return CMMD_SCALE * (_mean_gaussian(x, x, block) + _mean_gaussian(y, y, block) - 2 * _mean_gaussian(x, y, block))


def _mean_gaussian(x: Tensor, y: Tensor, block: int) -> float:
    """The mean of the kernel over all pairs of rows of length 1, whose squared distance is 2 - 2 x.y."""
    total = sum(((x_rows @ y.T - 1) / CMMD_SIGMA**2).exp().sum() for x_rows in x.split(block))
    return float(total) / (len(x) * len(y))
