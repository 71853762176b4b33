"""All metrics of generated samples from one pass of features."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reals.measure.extractor import Features
from reals.measure.metrics.checks import finite_rows
from reals.measure.metrics.frechet import Moments, Statistics, frechet_distance
from reals.measure.metrics.inception_score import inception_score
from reals.measure.metrics.kernel import cmmd, kernel_distance
from reals.measure.metrics.manifold import memberships

KID_SUBSETS = 100
_BLOCK = 8192  # rows a reference's moments take in at a time


@dataclass(frozen=True)
class Reference:
    """Real images: statistics of all of them, and pool features [M, D] of some for P/R and KID."""

    pool: Statistics
    spatial: Statistics
    features: Tensor


def reference_of(features: Features) -> Reference:
    """The reference made of real images whose features are in memory; all are kept for P/R and KID."""
    return Reference(Moments.of(features.pool).finalize(), Moments.of(features.spatial).finalize(), features.pool)


class ReferenceStream:
    """A reference made from a stream of features: moments of all, pool features of the ``chosen`` rows alone.

    ``chosen`` are sorted row numbers of the stream. However the stream is cut into batches, moments take it in
    blocks of 8192 rows, so that the result is the same to the bit.
    """

    def __init__(self, chosen: np.ndarray):
        self.chosen = chosen
        self.n = 0
        self.moments: tuple[Moments, Moments] | None = None
        self._kept: list[Tensor] = []
        self._waiting: tuple[list[Tensor], list[Tensor]] = ([], [])

    def add(self, features: Features) -> None:
        """Take in the next rows; ValueError naming the first row that is not finite."""
        finite_rows(features.pool, "reference features", first=self.n)
        if self.moments is None:
            self.moments = (Moments(features.pool.shape[1]), Moments(features.spatial.shape[1]))
        first, last = np.searchsorted(self.chosen, (self.n, self.n + len(features)))
        self._kept.append(features.pool[torch.from_numpy(self.chosen[first:last] - self.n)])
        self.n += len(features)
        for waiting, rows in zip(self._waiting, (features.pool, features.spatial), strict=True):
            waiting.append(rows)
        if sum(map(len, self._waiting[0])) >= _BLOCK:
            self._take(whole=False)

    def finish(self) -> tuple[Moments, Moments, Tensor]:
        """Moments of pool and spatial features, and the chosen pool features."""
        if self.moments is None:
            raise ValueError("reference: no images")
        self._take(whole=True)
        return *self.moments, torch.cat(self._kept)

    def _take(self, whole: bool) -> None:
        assert self.moments is not None
        for moments, waiting in zip(self.moments, self._waiting, strict=True):
            blocks = list(torch.cat(waiting).split(_BLOCK)) if waiting else []
            rest = [] if whole or len(blocks[-1]) == _BLOCK else [blocks.pop()]
            for block in blocks:
                moments.add(block)
            waiting[:] = rest


def streamed_reference(batches: Iterable[Features], chosen: np.ndarray) -> tuple[Moments, Moments, Tensor]:
    """Moments of pool and spatial features of all ``batches``, and the pool features of the ``chosen`` rows."""
    stream = ReferenceStream(chosen)
    for features in batches:
        stream.add(features)
    return stream.finish()


def generation_metrics(
    samples: Features,
    reference: Reference,
    *,
    k: int = 3,
    pr_reference: int = 10_000,
    split_size: int = 5000,
    kid_subsets: int = KID_SUBSETS,
    kid_subset_size: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """``fid``, ``sfid``, ``is``, ``is_std``, ``precision``, ``recall`` and ``kid`` of samples.

    FID and sFID use the reference's statistics; precision, recall and KID its first ``pr_reference`` pool
    features (10,000 in the ADM evaluator). ValueError if there are fewer. ``seed`` draws KID's subsets only.
    Left out are: sFID and IS of a network without spatial map or classes, precision and recall (and KID) where
    ``pr_reference`` is 0, KID where ``kid_subsets`` is 0.
    """
    return measured(
        samples, reference, k=k, pr_reference=pr_reference, split_size=split_size, kid_subsets=kid_subsets,
        kid_subset_size=kid_subset_size, seed=seed,
    ).values  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """Metrics, and what intervals are made from: which samples and which reference rows lie inside the other's balls."""

    values: dict[str, float]
    samples_in: Tensor | None
    reference_in: Tensor | None


def measured(
    samples: Features, reference: Reference, *, k: int, pr_reference: int, split_size: int, kid_subsets: int,
    kid_subset_size: int, seed: int, with_cmmd: bool = False,
) -> Measured:  # fmt: skip
    """:func:`generation_metrics` with the memberships behind precision and recall, and ``cmmd`` where that is asked for."""
    if len(reference.features) < pr_reference:
        raise ValueError(
            f"reference: {len(reference.features)} pool features, {pr_reference} needed; extract more or lower pr_reference"
        )
    real = reference.features[:pr_reference]
    values = {"fid": distance(samples.pool, reference.pool)}
    if samples.spatial.shape[1]:
        values["sfid"] = distance(samples.spatial, reference.spatial)
    if samples.logits.shape[1]:
        values["is"], values["is_std"] = inception_score(samples.logits, split_size)
    samples_in = reference_in = None
    if pr_reference:
        samples_in, reference_in = memberships(real, samples.pool, k)
        values["precision"], values["recall"] = (float(x.double().mean()) for x in (samples_in, reference_in))
        if kid_subsets:
            values["kid"] = kernel_distance(samples.pool, real, seed, kid_subsets, kid_subset_size)[0]
        if with_cmmd:
            values["cmmd"] = cmmd(samples.pool, real)
    return Measured(values, samples_in, reference_in)


def distance(features: Tensor, reference: Statistics) -> float:
    """Frechet distance of features [N, D] to the reference: FID of pool features, sFID of spatial ones."""
    own = Moments.of(features).finalize()
    return frechet_distance(own.mu, own.sigma, reference.mu, reference.sigma)
