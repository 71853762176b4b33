"""Fréchet distance and streamed moments: closed forms, invariances, parity with NumPy and torch-fidelity."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reals.measure.metrics.frechet import Moments, _fast_root_trace, frechet_distance, read_adm_statistics, root_factor
from reals.rng import generator


def rows(n: int, d: int, seed: int = 0, mean: float = 0.0) -> torch.Tensor:
    draw = generator(seed, "test")
    mixing = torch.randn(d, d, generator=draw, dtype=torch.float64)
    return torch.randn(n, d, generator=draw, dtype=torch.float64) @ mixing + mean


def distance(x: torch.Tensor, y: torch.Tensor) -> float:
    a, b = Moments.of(x).finalize(), Moments.of(y).finalize()
    return frechet_distance(a.mu, a.sigma, b.mu, b.sigma)


def test_moments_are_numpys():
    x = rows(200, 7, mean=3.0)
    statistics = Moments.of(x, block=33).finalize()
    assert statistics.n == 200
    np.testing.assert_allclose(statistics.mu, x.numpy().mean(0), rtol=1e-13)
    np.testing.assert_allclose(statistics.sigma, np.cov(x.numpy(), rowvar=False), rtol=1e-11, atol=1e-13)


def test_moments_keep_their_digits_far_from_zero():
    x = rows(500, 4)
    near, far = Moments.of(x, block=64).finalize(), Moments.of(x + 1e6, block=64).finalize()
    torch.testing.assert_close(far.sigma, near.sigma, rtol=1e-7, atol=1e-7)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 39), max_size=6, unique=True))
def test_moments_are_blind_to_order_and_batching(seed, cuts):
    x = rows(40, 5, seed, mean=10.0)
    shuffled = x[torch.randperm(40, generator=generator(seed, "order"))]
    whole, parts = Moments(5), [Moments(5), Moments(5)]
    whole.add(x)
    for i, batch in enumerate(torch.tensor_split(shuffled, sorted(cuts))):
        parts[i % 2].add(batch)
    parts[0].merge(parts[1])
    a, b = whole.finalize(), parts[0].finalize()
    assert a.n == b.n
    torch.testing.assert_close(a.mu, b.mu, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(a.sigma, b.sigma, rtol=1e-12, atol=1e-12 * float(a.sigma.abs().max()))


def test_merging_nothing_changes_nothing_and_arrays_round_trip_exactly():
    moments = Moments.of(rows(9, 3))
    before = moments.to_dict()
    moments.merge(Moments(3))
    after = Moments.from_dict(moments.to_dict()).to_dict()
    assert all(np.array_equal(before[name], after[name]) for name in ("n", "mean", "scatter"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_features_are_refused_with_their_index(bad):
    moments = Moments(3)
    moments.add(torch.zeros(10, 3))
    batch = torch.zeros(4, 3)
    batch[2, 1] = bad
    with pytest.raises(ValueError, match="row 12 is not finite"):
        moments.add(batch)
    assert moments.n == 10


def test_wrong_widths_and_too_few_rows_are_refused():
    with pytest.raises(ValueError, match="4 wide, 3 expected"):
        Moments(3).add(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="at least 2"):
        Moments.of(torch.zeros(1, 3)).finalize()
    with pytest.raises(ValueError, match="uint8"):
        Moments(3).add(torch.zeros(2, 3, dtype=torch.uint8))


def test_equal_statistics_have_distance_zero_and_a_shift_its_square():
    x = rows(300, 20)
    scale = float(Moments.of(x).finalize().sigma.trace())
    assert abs(distance(x, x)) < 1e-12 * scale
    assert distance(x, x + 2.0) == pytest.approx(20 * 4.0, abs=1e-11 * scale)


def test_commuting_covariances_have_their_closed_form():
    s1, s2 = torch.tensor([4.0, 9.0, 0.0]), torch.tensor([1.0, 25.0, 16.0])
    zero = torch.zeros(3)
    expected = float((s1.sqrt() - s2.sqrt()).square().sum())
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator(0, "q"), dtype=torch.float64)).Q
    turn = [rotation @ torch.diag(s.double()) @ rotation.T for s in (s1, s2)]
    assert frechet_distance(zero, torch.diag(s1), zero, torch.diag(s2)) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(zero, turn[0], zero, turn[1]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [(30, 40), (400, 300)])
def test_any_rank_agrees_with_the_data_side_form(n):
    # tr (S1 S2)^1/2 is the nuclear norm of X1 X2^T / sqrt((n1 - 1)(n2 - 1)), free of covariances.
    x, y = rows(n[0], 200, seed=1), rows(n[1], 200, seed=2, mean=0.5)
    a, b = x - x.mean(0), y - y.mean(0)
    traces = a.square().sum() / (n[0] - 1) + b.square().sum() / (n[1] - 1)
    nuclear = torch.linalg.svdvals(a @ b.T).sum() / ((n[0] - 1) * (n[1] - 1)) ** 0.5
    expected = float((x.mean(0) - y.mean(0)).square().sum() + traces - 2 * nuclear)
    assert distance(x, y) == pytest.approx(expected, rel=1e-11)
    assert abs(distance(x, x)) < 1e-12 * float(traces)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(2, 40))
def test_distance_is_symmetric_not_negative_and_blind_to_rotation(seed, n, m):
    x, y = rows(n, 6, seed), rows(m, 6, seed + 1, mean=1.0)
    q = torch.linalg.qr(torch.randn(6, 6, generator=generator(seed, "q"), dtype=torch.float64)).Q
    d, size = distance(x, y), float(x.square().mean() + y.square().mean())
    assert d > -1e-10 * size
    assert distance(y, x) == pytest.approx(d, rel=1e-9, abs=1e-10 * size)
    assert distance(x @ q, y @ q) == pytest.approx(d, rel=1e-9, abs=1e-10 * size)
    assert distance(3 * x, 3 * y) == pytest.approx(9 * d, rel=1e-9, abs=1e-9 * size)


def test_agrees_with_torch_fidelity():
    peer = pytest.importorskip("torch_fidelity.metric_fid")
    x, y = rows(600, 64, seed=3), rows(500, 64, seed=4, mean=0.3)
    theirs = peer.fid_statistics_to_metric(peer.fid_features_to_statistics(x), peer.fid_features_to_statistics(y), verbose=False)[
        "frechet_inception_distance"
    ]
    assert distance(x, y) == pytest.approx(theirs, rel=1e-10)


def test_what_is_no_covariance_is_refused():
    zero, eye = torch.zeros(2), torch.eye(2)
    with pytest.raises(ValueError, match="not a covariance"):
        frechet_distance(zero, torch.diag(torch.tensor([1.0, -0.1])), zero, eye)
    with pytest.raises(ValueError, match="NaN"):
        frechet_distance(zero, eye, zero, eye * float("nan"))
    with pytest.raises(ValueError, match="shapes"):
        frechet_distance(zero, eye, torch.zeros(3), torch.eye(3))


def test_a_mean_that_is_not_finite_and_half_a_covariance_are_refused():
    mu, sigma = torch.zeros(4), torch.eye(4)
    hole, upper = mu.clone(), sigma + 0.5 * torch.ones(4, 4).triu(1)
    hole[2] = torch.nan
    for arguments, says in (
        ((hole, sigma, mu, sigma), "the mean has NaN or Inf"),
        ((mu, sigma, hole, sigma), "the mean has NaN or Inf"),
        ((mu, sigma, mu, upper), "differ from those across its diagonal by up to 0.5; it is not symmetric"),
    ):
        with pytest.raises(ValueError, match=says):
            frechet_distance(*arguments)
    rounded = sigma + 1e-6 * torch.ones(4, 4).triu(1)  # as float32 on the way to a file
    assert frechet_distance(mu, sigma, mu, rounded) == pytest.approx(0, abs=1e-6)


def test_adm_reference_files_are_read_and_incomplete_ones_refused(tmp_path):
    arrays = {"mu": np.ones(2), "sigma": np.eye(2), "mu_s": np.zeros(3), "sigma_s": 2 * np.eye(3)}
    np.savez(tmp_path / "full.npz", **arrays)
    pool, spatial = read_adm_statistics(tmp_path / "full.npz", n=7)
    assert pool.n == 7 and pool.mu.tolist() == [1, 1] and spatial.sigma.trace() == 6
    np.savez(tmp_path / "half.npz", mu=np.ones(2), sigma=np.eye(2))
    with pytest.raises(ValueError, match="mu_s, sigma_s"):
        read_adm_statistics(tmp_path / "half.npz", n=7)


def test_the_fast_way_agrees_where_it_trusts_itself_and_steps_back_where_it_should_not():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(600, 60, generator=draw, dtype=torch.float64) * torch.linspace(0.1, 2, 60)
    y = torch.randn(500, 60, generator=draw, dtype=torch.float64) + 0.3 * x[:500]
    a, b = Moments.of(x).finalize(), Moments.of(y).finalize()
    careful = torch.linalg.svdvals(root_factor(a.sigma) @ root_factor(b.sigma).T).sum()
    assert float(_fast_root_trace(a.sigma, b.sigma)) == pytest.approx(float(careful), rel=1e-11)
    for n in (20, 61):
        deficient = Moments.of(x[:n] * torch.logspace(0, -7, 60, dtype=torch.float64)).finalize()
        assert _fast_root_trace(deficient.sigma, b.sigma) is None
