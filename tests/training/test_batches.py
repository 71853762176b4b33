"""The order of the data is one stream of permutations, whatever the batch."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from reals import rng
from reals.training.batches import data_order


@given(st.integers(1, 40), st.integers(1, 30), st.integers(0, 5))
def test_the_data_order_is_one_stream_of_permutations(n, batch, seed):
    steps = -(-3 * n // batch)
    stream = [i for step in range(steps) for i in data_order(seed, step, batch, n)]
    for epoch in range(3):
        assert sorted(stream[epoch * n : (epoch + 1) * n]) == list(range(n))
    assert stream[:n] == np.asarray(rng.permutation(seed, "data order", 0, n=n)).tolist()
