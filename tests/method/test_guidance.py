"""Guidance acts where it is asked to, on the channels it is asked to, in one call on the doubled batch."""

import pytest
import torch
from recorder import CLASSES, Recorder, draw, labels, seeded_noise, velocity

from reals.method import ddpm, guidance, samplers


@pytest.fixture(scope="module")
def sit() -> Recorder:
    return Recorder(learn_sigma=True)


@pytest.mark.parametrize(
    ("interval", "kind", "doubled"),
    [((0, 0.75), "noise", 185), ((0, 0.7), "noise", 172), ((0, 1), "noise", 250), ((0.25, 1), "data", 185)],
)
def test_evaluations_of_a_guided_sde(sit, interval, kind, doubled):
    x = draw(2, 4, 4, 4)
    field = guidance.guided(sit, labels(2), 1.8, null=CLASSES, channels="all", interval=interval, interval_time=kind)
    sit.calls.clear()
    samplers.euler_maruyama(field, x, 250, seeded_noise(x.shape))
    assert len(sit.calls) == 250
    assert sit.calls.count(4) == doubled
    assert sit.calls.count(2) == 250 - doubled


def test_guidance_outside_its_interval_is_conditional(sit):
    x, y = draw(3, 4, 4, 4), labels(3)
    field = guidance.guided(sit, y, 4.0, null=CLASSES, channels=3, interval=(0.2, 0.5))
    for t in (0.4, 0.85, 0.0, 1.0):
        torch.testing.assert_close(field(x, t), velocity(sit, x, t, y), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(field(x, 0.6), velocity(sit, x, 0.6, y), rtol=1e-3)


def test_interval_bounds_are_inside_despite_rounding(sit):
    field = guidance.guided(sit, labels(1), 2.0, null=CLASSES, channels=3, interval=(0.1, 0.7))
    for t in (1 - 0.7, 0.3, 0.1 + 0.2, 0.9, 1 - 0.1):
        sit.calls.clear()
        field(draw(1, 4, 4, 4), t)
        assert sit.calls == [2]


def test_scale_one_is_one_conditional_call(sit):
    x, y = draw(3, 4, 4, 4), labels(3)
    sit.calls.clear()
    v = guidance.guided(sit, y, 1.0, null=CLASSES, channels=3)(x, 0.5)
    assert sit.calls == [3]
    assert torch.equal(v, velocity(sit, x, 0.5, y))


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.5, 4.0])
def test_guidance_formula_and_channels(sit, scale):
    x, y = draw(3, 4, 4, 4), labels(3)
    conditional = velocity(sit, x, 0.5, y)
    null = velocity(sit, x, 0.5, torch.full_like(y, CLASSES))
    mixed = null + scale * (conditional - null)
    every = guidance.guided(sit, y, scale, null=CLASSES, channels="all")(x, 0.5)
    three = guidance.guided(sit, y, scale, null=CLASSES, channels=3)(x, 0.5)
    torch.testing.assert_close(every, mixed, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(three[:, :3], mixed[:, :3], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(three[:, 3:], conditional[:, 3:], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(three[:, 3:], mixed[:, 3:], rtol=1e-3)


@pytest.mark.parametrize(("channels", "count"), [(3, 3), ("all", 4)])
def test_guided_noise_leaves_the_variance_conditional(sit, channels, count):
    x, y, t = draw(3, 4, 4, 4), labels(3), torch.full((3,), 400)
    conditional = sit.network(x, t, y)
    null = sit.network(x, t, torch.full_like(y, CLASSES))
    output = guidance.guided_noise(sit, y, 1.5, null=CLASSES, channels=channels)(x, 400)
    mixed = null + 1.5 * (conditional - null)
    torch.testing.assert_close(output[:, :count], mixed[:, :count], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(output[:, count:], conditional[:, count:], rtol=1e-12, atol=1e-12)
    plain = guidance.guided_noise(sit, y, 1.0, null=CLASSES, channels=channels)(x, 400)
    assert torch.equal(plain, conditional)


def test_no_variance_is_guided_where_there_are_fewer_channels_than_three():
    """A chain of two channels: its output is two of noise and two of variance."""
    y = labels(2)
    output = guidance.guided_noise(
        lambda x, t, y: torch.cat([x, x], dim=1) + y.view(-1, 1, 1, 1).to(x.dtype), y, 3.0, null=CLASSES, channels=3
    )(x := draw(2, 2, 4, 4), 400)
    classes = y.view(-1, 1, 1, 1).to(x.dtype)
    torch.testing.assert_close(output[:, :2], x + CLASSES + 3 * (classes - CLASSES))
    torch.testing.assert_close(output[:, 2:], x + classes)


def test_fields_are_not_mixed_up(sit):
    x = draw(1, 4, 4, 4)
    with pytest.raises(AssertionError, match="guided_noise"):
        guidance.guided(sit, labels(1), 1.0, null=CLASSES, channels=3)(x, 999)
    with pytest.raises(AssertionError, match="needs guided"):
        guidance.guided_noise(sit, labels(1), 1.0, null=CLASSES, channels=3)(x, 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": -0.1}, "guidance scale"),
        ({"scale": float("nan")}, "guidance scale"),
        ({"channels": 4}, "expected 3 or 'all'"),
        ({"interval": (0.7, 0.2)}, "0 <= low <= high <= 1"),
        ({"interval": (0.0, 1.5)}, "0 <= low <= high <= 1"),
        ({"interval_time": "tau"}, "expected 'noise' or 'data'"),
    ],
)
def test_unusable_guidance_is_refused(sit, change, message):
    with pytest.raises(ValueError, match=message):
        guidance.guided(sit, labels(1), **{"scale": 1.5, "null": CLASSES, "channels": 3, **change})


@pytest.mark.parametrize(("interval_time", "interval"), [("noise", (0.0, 0.75)), ("data", (0.25, 1.0))])
def test_a_dit_is_guided_in_its_interval_alone(interval_time, interval):
    sizes = []

    def model(x, t, y):
        sizes.append((int(t[0]), len(x)))
        return torch.cat([x, x], dim=1)

    y = torch.zeros(2, dtype=torch.int64)
    field = guidance.guided_noise(model, y, 2.0, null=9, channels=3, interval=interval, interval_time=interval_time)
    schedule = ddpm.respace(ddpm.linear_schedule(), 250)
    noise = samplers.per_sample_noise(0, [0, 1], (4, 2, 2), "x")
    samplers.ddpm_ancestral(field, torch.zeros(2, 4, 2, 2), schedule, noise)
    assert len(sizes) == 250
    assert all((size == 4) == (step <= 0.75 * 999) for step, size in sizes)
