"""What a job used: energy counters."""

import pytest

from reals.machine import usage


def test_energy_counters_that_wrap():
    before, after = {"a": (900, 1000), "b": (0, 1000)}, {"a": (100, 1000), "b": (500, 1000)}
    assert usage.energy_between(before, after) == pytest.approx((200 + 500) / 1e6 / 3600)
    assert usage.energy_between({}, after) is None
