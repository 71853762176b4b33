"""Statistics of few pairs, beside scipy's and by hand."""

import math

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from reals.report import paired

VALUES = st.lists(st.floats(-3, 3, allow_subnormal=False), min_size=2, max_size=12)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 8, 9, 30, 99])
@pytest.mark.parametrize("confidence", [0.6, 0.9, 0.95, 0.999])
def test_students_t_is_scipys(degrees, confidence):
    expected = scipy.stats.t.ppf(0.5 + confidence / 2, degrees)
    assert paired.quantile(confidence, degrees) == pytest.approx(expected, rel=1e-9)
    assert paired.share_within(expected, degrees) == pytest.approx(confidence, rel=1e-9)


@given(VALUES)
def test_the_interval_is_scipys(values):
    expected = scipy.stats.sem(values) * scipy.stats.t.ppf(0.975, len(values) - 1)
    assert paired.half_width(paired.deviation(values), len(values), 0.95) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_one_value_has_no_interval():
    assert paired.half_width(0.0, 1, 0.95) == math.inf


@given(VALUES)
def test_the_sign_test_is_scipys(values):
    signs = [v for v in values if v]
    expected = scipy.stats.binomtest(sum(v < 0 for v in signs), len(signs)).pvalue if signs else 1.0
    assert paired.sign_test(values) == pytest.approx(expected)


def test_five_of_five_are_one_in_sixteen():
    assert paired.sign_test([-1, -2, -0.1, -3, -0.5]) == 2 / 32
    assert paired.sign_test([-1, -2, -0.1, -3, 0.5]) == 12 / 32
    assert paired.sign_test([]) == 1.0


def test_a_curve_meets_a_value_where_the_line_of_its_logarithms_does():
    curve = [(500, 16.0), (1000, 8.0), (1500, 2.0)]
    assert paired.first_at(curve, 8.0) == 1000
    assert paired.first_at(curve, 4.0) == pytest.approx(1250)
    assert paired.first_at(curve, 2.0) == pytest.approx(1500)
    assert paired.first_at(curve, 1.9) is None
    assert paired.first_at(curve, 20.0) == 500
    assert paired.first_at([(500, 16.0), (1000, 8.0), (1500, 9.0)], 8.5) == pytest.approx(  # rising again is of no interest
        500 + 500 * math.log(16 / 8.5) / math.log(2)
    )
