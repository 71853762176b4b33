"""Streamed feature statistics and the Fréchet distance between two of them (FID, sFID)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reals.measure.metrics.checks import finite_rows

# A covariance may miss positive semi-definiteness by this share of its largest eigenvalue.
_NEGATIVE_TOLERANCE = 1e-6
_SKEW_TOLERANCE = 1e-4  # of its largest entry, which float32 on the way to the file stays far below
_BLOCK = 512  # columns of a scatter at a time: 5/8 of the work at a width of 2,048
_WIDE = 1024  # features, from which a faster way to the distance is worth its check


class Statistics(NamedTuple):
    """Mean [D] and covariance [D, D] (divisor n - 1) of n feature rows, float64 on the CPU."""

    mu: Tensor
    sigma: Tensor
    n: int


class Moments:
    """Mean and scatter of a stream of features in float64, blind to order and batching up to rounding.

    Batches are centred before they are multiplied and joined by the update of Chan, Golub and LeVeque (1979),
    so a mean far from zero costs no digits. The covariance is that of ``numpy.cov(rowvar=False)``, as in the
    ADM evaluator.
    """

    def __init__(self, dimension: int):
        self.n = 0
        self.mean = torch.zeros(dimension, dtype=torch.float64)
        self.scatter = torch.zeros(dimension, dimension, dtype=torch.float64)

    @classmethod
    def of(cls, features: Tensor, block: int = 8192) -> Moments:
        """The moments of features [N, D] held in memory."""
        moments = cls(features.shape[-1])
        for batch in features.split(block):
            moments.add(batch)
        return moments

    def add(self, features: Tensor) -> None:
        """Take in features [B, D]. ValueError for another width, and for NaN or Inf, naming the row."""
        finite_rows(features, "features", first=self.n)
        self._check_width(features.shape[1])
        rows = features.detach().to("cpu", torch.float64)
        mean = rows.mean(dim=0)
        centred = rows - mean
        # The scatter is symmetric: what lies below the blocks on its diagonal stays as it is, and is never read.
        for i in range(0, len(mean), _BLOCK):
            self.scatter[i : i + _BLOCK, i:].addmm_(centred[:, i : i + _BLOCK].T, centred[:, i:])
        self._shift(len(rows), mean)

    def merge(self, other: Moments) -> None:
        """Take in everything ``other`` has seen; ``other`` stays as it is."""
        self._check_width(len(other.mean))
        if other.n > 0:
            self.scatter += other.scatter
            self._shift(other.n, other.mean)

    def finalize(self) -> Statistics:
        """Mean, unbiased covariance and count; ValueError for fewer than 2 rows."""
        if self.n < 2:
            raise ValueError(f"moments: {self.n} feature rows, at least 2 are needed for a covariance")
        sigma = self.scatter.triu() / (self.n - 1)
        return Statistics(self.mean.clone(), sigma + sigma.triu(1).T, self.n)

    def to_dict(self) -> dict[str, np.ndarray]:
        """Arrays ``n`` (int64), ``mean`` [D] and ``scatter`` [D, D], which :meth:`from_dict` reads back."""
        return {
            "n": np.array(self.n),
            "mean": self.mean.numpy().copy(),
            "scatter": self.scatter.numpy().copy(),
        }

    @classmethod
    def from_dict(cls, arrays: Mapping[str, np.ndarray]) -> Moments:
        """The inverse of :meth:`to_dict`."""
        moments = cls(len(arrays["mean"]))
        moments.n = int(arrays["n"])
        moments.mean = torch.tensor(arrays["mean"], dtype=torch.float64)
        moments.scatter = torch.tensor(arrays["scatter"], dtype=torch.float64)
        return moments

    def _check_width(self, width: int) -> None:
        if width != len(self.mean):
            raise ValueError(f"moments: features are {width} wide, {len(self.mean)} expected")

    def _shift(self, n: int, mean: Tensor) -> None:
        delta = mean - self.mean
        total = self.n + n
        self.scatter.addr_(delta, delta, alpha=self.n * n / total)
        self.mean += delta * (n / total)
        self.n = total


def frechet_distance(mu1: Tensor, sigma1: Tensor, mu2: Tensor, sigma2: Tensor) -> float:
    """|mu1 - mu2|^2 + tr(sigma1 + sigma2 - 2 (sigma1 sigma2)^1/2), the squared Fréchet distance.

    Means are [D] and covariances [D, D] of any rank; all arithmetic is float64. Heusel et al. 2017, eq. 6.
    The reference implementations take a general matrix square root, which is unreliable for singular
    products; here the trace is the sum of the singular values of sigma1^1/2 sigma2^1/2, each root from a
    symmetric eigendecomposition. Eigenvalues below D * machine epsilon * the largest are rounding noise and
    count as 0: their roots would add 1e-4 or so for a rank-deficient covariance of D = 2048. ValueError for
    unequal shapes, non-finite entries or a matrix that is no covariance.
    """
    mu1, sigma1, mu2, sigma2 = (torch.as_tensor(a).to("cpu", torch.float64) for a in (mu1, sigma1, mu2, sigma2))
    width = len(mu1)
    shapes = [tuple(a.shape) for a in (mu1, sigma1, mu2, sigma2)]
    if shapes != [(width,), (width, width)] * 2:
        raise ValueError(f"frechet_distance: shapes {shapes}, expected [D], [D, D], [D], [D, D] with one D")
    for mu, sigma in ((mu1, sigma1), (mu2, sigma2)):
        if fault := no_statistics(mu, sigma):
            raise ValueError(f"frechet_distance: {fault}")
    root_trace = _fast_root_trace(sigma1, sigma2) if width >= _WIDE else None
    if root_trace is None:
        root_trace = torch.linalg.svdvals(root_factor(sigma1) @ root_factor(sigma2).T).sum()
    return float((mu1 - mu2).square().sum() + sigma1.trace() + sigma2.trace() - 2 * root_trace)


def no_statistics(mu: Tensor, sigma: Tensor) -> str | None:
    """Why a mean [D] and a matrix [D, D] are not those of features, as far as that costs little to see; None where they may be."""
    if not torch.isfinite(mu).all():
        return "the mean has NaN or Inf entries"
    if not torch.isfinite(sigma).all():
        return "the covariance has NaN or Inf entries"
    skew = float((sigma - sigma.T).abs().max()) if sigma.numel() else 0.0
    if skew > _SKEW_TOLERANCE * float(sigma.abs().max()):
        return f"entries of the covariance differ from those across its diagonal by up to {skew:.3g}; it is not symmetric"
    return None


def _fast_root_trace(sigma1: Tensor, sigma2: Tensor) -> Tensor | None:
    """The trace of (sigma1 sigma2)^1/2 by Cholesky factors, some four times faster; None where it could miss digits.

    With sigma = L L^T it is the sum of the roots of the eigenvalues of M M^T, M = L1^T L2. Squaring M costs digits of
    its small singular values: each root may be off by sqrt(D) epsilon times the largest eigenvalue over twice the root.
    If these add up to more than 1e-9 of the sum, or a factor does not exist, the careful way must be taken.
    """
    (l1, failed1), (l2, failed2) = (torch.linalg.cholesky_ex(s) for s in (sigma1, sigma2))
    if failed1 or failed2 or not (torch.isfinite(l1).all() and torch.isfinite(l2).all()):
        return None
    m = l1.T @ l2
    values = torch.linalg.eigvalsh(m @ m.T)
    if values[0] <= 0:
        return None
    roots = values.sqrt()
    error = len(m) ** 0.5 * torch.finfo(torch.float64).eps * values[-1] * (1 / (2 * roots)).sum()
    return roots.sum() if error <= 1e-9 * roots.sum() else None


def root_factor(sigma: Tensor) -> Tensor:
    """[rank, D] factor F with F^T F = sigma."""
    values, vectors = torch.linalg.eigh((sigma + sigma.T) / 2)
    largest = values.abs().max()
    if values[0] < -_NEGATIVE_TOLERANCE * largest:
        raise ValueError(f"frechet_distance: eigenvalue {values[0]:.3g} < 0; the matrix is not a covariance")
    kept = values > len(values) * torch.finfo(torch.float64).eps * largest
    return values[kept].sqrt()[:, None] * vectors[:, kept].T


def optimal_map(sigma: Tensor, target: Tensor) -> tuple[Tensor, float]:
    """(A [D, D], variance out of reach): rows x of covariance ``sigma`` moved to x A have covariance ``target``, by the least mean
    squared move.

    A = S^-1/2 (S^1/2 R S^1/2)^1/2 S^-1/2 for S = ``sigma`` and R = ``target`` (Dowson and Landau 1982, Olkin and Pukelsheim 1982).
    Where S is of lower rank, the variance of R that no row can be moved to is left.
    """
    own, real = root_factor(sigma), root_factor(target)
    u, _, v = torch.linalg.svd(own @ real.T, full_matrices=False)
    reached = v @ real
    # own has rows sqrt(l) q, so dividing by l whitens: A = own^+ U V real, acting on rows.
    return (own.T / own.square().sum(dim=1)) @ (u @ reached), float(real.square().sum() - reached.square().sum())


def read_adm_statistics(path: Path, n: int) -> tuple[Statistics, Statistics]:
    """(pool, spatial) statistics of an ADM reference .npz (``mu``, ``sigma``, ``mu_s``, ``sigma_s``).

    ``n`` is the number of images behind them, which the file does not hold (1,281,167 for ImageNet train).
    ValueError if an array is missing, or is no real numbers.
    """
    with np.load(path) as arrays:
        missing = {"mu", "sigma", "mu_s", "sigma_s"} - set(arrays)
        if missing:
            raise ValueError(f"{path}: no {', '.join(sorted(missing))}; expected an ADM reference with statistics")
        for name in ("mu", "sigma", "mu_s", "sigma_s"):
            if arrays[name].dtype.kind not in "iuf":
                raise ValueError(f"{path}: {name} is {arrays[name].dtype}, expected real numbers; make the file again")
        mu, sigma, mu_s, sigma_s = (
            torch.tensor(arrays[name], dtype=torch.float64) for name in ("mu", "sigma", "mu_s", "sigma_s")
        )
    return Statistics(mu, sigma, n), Statistics(mu_s, sigma_s, n)
