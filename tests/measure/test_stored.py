"""What processes make in parts covers the whole."""

from hypothesis import given
from hypothesis import strategies as st

from reals.measure.stored import own_rows


@given(st.integers(0, 300), st.integers(1, 40), st.integers(1, 9))
def test_shards_cover_every_image_once_in_whole_batches(n, batch, shards):
    spans = [own_rows(n, batch, k, shards) for k in range(shards)]
    assert [i for start, stop in spans for i in range(start, stop)] == list(range(n))
    assert all(start % batch == 0 or start == n for start, _ in spans)
