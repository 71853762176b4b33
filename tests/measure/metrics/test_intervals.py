"""Bootstrap intervals: replicates are metrics of resampled rows, and their spread is that of new samples."""

import numpy as np
import pytest
import torch

from reals.measure.metrics.frechet import Moments, frechet_distance
from reals.measure.metrics.generation import distance
from reals.measure.metrics.intervals import (
    bootstrap_frechet,
    bootstrap_inception_score,
    bootstrap_share,
    centred_interval,
    counts_of,
    frechet_half_width,
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


@pytest.mark.slow
@pytest.mark.parametrize(("n", "width"), [(600, 8), (400, 80)])
def test_the_limit_of_resampling_is_as_wide_as_new_samples_vary(n, width):
    """Also with five rows a dimension, as 10,000 samples have in Inception's 2,048."""
    draw = generator(2, "limit", width)
    mix = torch.randn(width, width, generator=draw) / width**0.5 + torch.eye(width)
    real = Moments.of(torch.randn(4000, width, generator=draw)).finalize()
    sets = [torch.randn(n, width, generator=draw) @ mix + 0.3 for _ in range(100)]
    values = [distance(x, real) for x in sets]
    widths = [frechet_half_width(x, real) for x in sets[:5]]
    assert 0.8 < np.mean(widths) / (1.96 * np.std(values, ddof=1)) < 1.25
    boot = centred_interval(values[0], bootstrap_frechet(sets[0], real, 60, seed=0))
    assert 0.75 < widths[0] / (1.96 * boot.std) < 1.35


def test_influences_are_derivatives():
    """The half-width from its definition: the distance's change when one row weighs a little more."""
    draw = generator(3, "influence")
    x, real = torch.randn(40, 3, generator=draw).double(), Moments.of(torch.randn(50, 3, generator=draw)).finalize()

    def weighed(row: int, more: float) -> float:
        w = torch.full((40,), 1 / 40, dtype=torch.float64)
        w = w * (1 - more)
        w[row] += more
        mu = w @ x
        sigma = (x - mu).T @ ((x - mu) * w[:, None]) * 40 / 39
        return frechet_distance(mu, sigma, real.mu, real.sigma)

    slopes = [(weighed(i, 1e-5) - weighed(i, -1e-5)) / 2e-5 for i in range(40)]
    assert frechet_half_width(x, real) == pytest.approx(1.959964 * np.std(slopes, ddof=1) / 40**0.5, rel=0.03)


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
