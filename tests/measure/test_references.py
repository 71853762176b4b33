"""A reference does not depend on how its images are cut into batches."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reals.measure.extractor import Features
from reals.measure.metrics.frechet import Moments
from reals.measure.metrics.generation import streamed_reference
from reals.measure.references import reference_rows
from reals.rng import generator


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 99))
def test_a_streamed_reference_is_blind_to_batches(sizes, seed):
    n = sum(sizes) + 1
    x = torch.randn(n, 6, generator=generator(seed, "stream")).float()
    features = Features(x, x[:, :4], x[:, :0])
    chosen = reference_rows(n, n // 2, seed)
    cut = [Features(*(t for t in parts)) for parts in zip(*(f.split([*sizes, 1]) for f in (
        features.pool, features.spatial, features.logits)), strict=True)]  # fmt: skip
    pool, spatial, kept = streamed_reference(cut, chosen)
    assert torch.equal(pool.scatter, Moments.of(features.pool).scatter)
    assert torch.equal(spatial.mean, Moments.of(features.spatial).mean)
    assert torch.equal(kept, x[torch.from_numpy(chosen)])
