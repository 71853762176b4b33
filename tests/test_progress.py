"""The time left is estimated within 10 % after 2 % of a run, however it starts, whatever it pauses for."""

import io
import random

import pytest

from reals.progress import Progress


class Clock:
    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


def simulated(step_seconds, steps=5000, share=0.02, start=0, pauses=()):
    """(estimate, truth) of the seconds left after ``share`` of the steps; pauses are (kind, seconds, every)."""
    clock = Clock()
    progress = Progress("run", steps, start, stream=io.StringIO(), now=clock)
    estimate = at = None
    for step in range(start, steps):
        clock.seconds += step_seconds(step - start)
        number = step + 1
        for kind, seconds, every in pauses:
            if number % every == 0:
                clock.seconds += seconds
                progress.pause(kind, seconds, every)
        progress.update(number)
        if estimate is None and number >= start + share * steps:
            estimate, at = progress.seconds_left(), clock.seconds
    return estimate, clock.seconds - at


@pytest.mark.parametrize("start", [0, 1234])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", ["steady", "slow start", "noisy", "skewed", "stalls once", "pauses"])
def test_the_estimate_is_right_to_a_tenth_after_two_percent(shape, seed, start):
    chance = random.Random(seed)
    shapes = {
        "steady": lambda step: 0.2,
        "slow start": lambda step: 90.0 if step == 0 else 8.0 if step == 1 else 0.2,  # compilation, caches
        "noisy": lambda step: 0.2 * chance.uniform(0.5, 1.5),
        "skewed": lambda step: 0.2 * (3.0 if chance.random() < 0.1 else 1.0),
        "stalls once": lambda step: 60.0 if step == 40 else 0.2,
        "pauses": lambda step: 0.2,
    }
    pauses = [("save", 3.0, 90), ("sample", 12.0, 50)] if shape == "pauses" else []
    estimate, truth = simulated(shapes[shape], start=start, pauses=pauses)
    assert estimate == pytest.approx(truth, rel=0.1)


def test_what_is_printed():
    clock, stream = Clock(), io.StringIO()
    progress = Progress("run", 100, stream=stream, now=clock)
    for done in range(10, 101, 10):
        clock.seconds += 20
        progress.update(done, loss=0.25)
    lines = stream.getvalue().splitlines()
    assert lines[2] == "run: 30/100  loss 0.25  0.5/s  ETA 2:20"
    assert lines[-1] == "run: 100/100  loss 0.25  0.5/s  done in 3:20"
