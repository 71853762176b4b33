"""All metrics of generated samples from one pass of features."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from reals.extractors import Features
from reals.metrics.frechet import Moments, Statistics, frechet_distance
from reals.metrics.inception_score import inception_score
from reals.metrics.kernel import kernel_distance
from reals.metrics.manifold import precision_recall


@dataclass(frozen=True)
class Reference:
    """Real images: statistics of all of them, and pool features [M, D] of some for P/R and KID."""

    pool: Statistics
    spatial: Statistics
    features: Tensor


def reference_of(features: Features) -> Reference:
    """The reference made of real images whose features are in memory; all are kept for P/R and KID."""
    return Reference(Moments.of(features.pool).finalize(), Moments.of(features.spatial).finalize(), features.pool)


def generation_metrics(
    samples: Features,
    reference: Reference,
    *,
    k: int = 3,
    pr_reference: int = 10_000,
    split_size: int = 5000,
    kid_subsets: int = 100,
    kid_subset_size: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """``fid``, ``sfid``, ``is``, ``is_std``, ``precision``, ``recall`` and ``kid`` of samples.

    FID and sFID use the reference's statistics; precision, recall and KID its first ``pr_reference`` pool
    features (10,000 in the ADM evaluator). ValueError if there are fewer. ``seed`` draws KID's subsets only.
    """
    if len(reference.features) < pr_reference:
        raise ValueError(
            f"reference: {len(reference.features)} pool features, {pr_reference} needed; extract more or lower pr_reference"
        )
    real = reference.features[:pr_reference]
    pool, spatial = Moments.of(samples.pool).finalize(), Moments.of(samples.spatial).finalize()
    score, score_std = inception_score(samples.logits, split_size)
    precision, recall = precision_recall(real, samples.pool, k)
    return {
        "fid": frechet_distance(pool.mu, pool.sigma, reference.pool.mu, reference.pool.sigma),
        "sfid": frechet_distance(spatial.mu, spatial.sigma, reference.spatial.mu, reference.spatial.sigma),
        "is": score,
        "is_std": score_std,
        "precision": precision,
        "recall": recall,
        "kid": kernel_distance(samples.pool, real, seed, kid_subsets, kid_subset_size)[0],
    }
