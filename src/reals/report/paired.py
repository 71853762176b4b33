"""Statistics of few pairs: Student's interval of a mean, the exact sign test, and where a falling curve meets a value."""

import math
import statistics
from collections.abc import Sequence
from functools import cache


def share_within(t: float, degrees: int) -> float:
    """P(|T| <= t) of Student's t with so many degrees of freedom, by its finite sums (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(degrees))
    odd = degrees % 2
    factor, total = (math.cos(angle) if odd else 1.0), 0.0
    for k in range(1 + odd, degrees, 2):
        total += factor
        factor *= math.cos(angle) ** 2 * k / (k + 1)
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


@cache
def quantile(confidence: float, degrees: int) -> float:
    """The t within which Student's t lies with probability ``confidence``, by bisection to the last bits."""
    low, high = 0.0, 1.0
    while share_within(high, degrees) < confidence:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if share_within(middle, degrees) < confidence else (low, middle)
    return high


def half_width(deviation: float, count: int, confidence: float) -> float:
    """Of Student's interval of the mean of ``count`` values with this standard deviation (n - 1); infinite for a single one."""
    return math.inf if count < 2 else quantile(confidence, count - 1) * deviation / math.sqrt(count)


def deviation(values: Sequence[float]) -> float:
    """Standard deviation (n - 1); 0 of a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def sign_test(values: Sequence[float]) -> float:
    """Two-sided exact p of as uneven a split of signs under a fair coin; zeros are no evidence and are left out."""
    signs = [value < 0 for value in values if value]
    rarer = min(sum(signs), len(signs) - sum(signs))
    return min(1.0, 2 * sum(math.comb(len(signs), k) for k in range(rarer + 1)) / 2 ** len(signs))


def first_at(curve: Sequence[tuple[int, float]], value: float) -> float | None:
    """The first step at which a curve of (step, positive value), ascending in step, is at or below ``value``.

    Between points the logarithm is linear in the step. None where it stays above; the first step where it begins below.
    """
    for (before, above), (step, found) in zip([(curve[0][0], math.inf), *curve], curve, strict=False):
        if found <= value:
            share = 1.0 if math.isinf(above) else (math.log(above) - math.log(value)) / (math.log(above) - math.log(found))
            return before + (step - before) * share
    return None
