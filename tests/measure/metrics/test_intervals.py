"""Bootstrap intervals: replicates are metrics of resampled rows, and their spread is that of new samples."""

import numpy as np
import pytest
import torch

from reals.measure.metrics.frechet import Moments, frechet_distance
from reals.measure.metrics.intervals import (
    bootstrap_frechet,
    bootstrap_inception_score,
    bootstrap_share,
    centred_interval,
    counts_of,
)
from reals.rng import generator


def test_intervals_cover_what_new_samples_do():
    draw = generator(0, "intervals")
    real = Moments.of(torch.randn(4000, 6, generator=draw)).finalize()

    def distance(x):
        own = Moments.of(x).finalize()
        return frechet_distance(own.mu, own.sigma, real.mu, real.sigma)

    sets = [1.2 * torch.randn(500, 6, generator=draw) for _ in range(60)]
    spread = np.std([distance(x) for x in sets])
    boot = bootstrap_frechet(sets[0], real, 60, seed=0)
    value = distance(sets[0])
    interval = centred_interval(value, boot)
    assert interval.low < value < interval.high
    assert 0.6 < interval.std / spread < 1.6
    assert boot.mean() > value  # resampling repeats rows, which raises FID: hence the centring


def test_replicates_are_the_metrics_of_resampled_rows():
    draw = generator(1, "replicates")
    x, logits = torch.randn(40, 3, generator=draw), torch.randn(40, 5, generator=draw)
    rows = torch.repeat_interleave(torch.arange(40), counts_of(40, 7, 2))
    real = Moments.of(torch.randn(50, 3, generator=draw)).finalize()
    own = Moments.of(x[rows]).finalize()
    expected = frechet_distance(own.mu, own.sigma, real.mu, real.sigma)
    assert float(bootstrap_frechet(x, real, 3, seed=7, block=16)[2]) == pytest.approx(expected, rel=1e-9)
    from reals.measure.metrics.inception_score import inception_score

    assert float(bootstrap_inception_score(logits, 5000, 3, seed=7)[2]) == pytest.approx(inception_score(logits[rows])[0])
    inside = x[:, 0] > 0
    assert float(bootstrap_share(inside, 3, seed=7)[2]) == pytest.approx(float(inside[rows].double().mean()))
