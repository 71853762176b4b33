"""The shares of the classes sum to the Fréchet distance."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reals.measure.metrics.contributions import class_contributions
from reals.measure.metrics.frechet import Moments, frechet_distance
from reals.rng import generator


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([12, 200]))
def test_contributions_are_an_exact_split_for_any_rank(seed, n):
    draw = generator(seed, "contributions")
    x = torch.randn(n, 16, generator=draw, dtype=torch.float64) * torch.linspace(0.3, 2, 16)
    labels = torch.arange(n) % 4
    x[labels == 2] += 3
    real = Moments.of(torch.randn(300, 16, generator=draw, dtype=torch.float64)).finalize()
    own = Moments.of(x).finalize()
    found = class_contributions(x, labels, 4, real)
    distance = frechet_distance(own.mu, own.sigma, real.mu, real.sigma)
    assert float(found.share.sum()) + found.remainder == pytest.approx(distance, rel=1e-9)
    assert (found.share >= 0).all()
    if n > 16:
        assert abs(found.remainder) < 1e-9 and found.share.argmax() == 2
