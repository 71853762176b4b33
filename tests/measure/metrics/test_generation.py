"""Inception Score, precision/recall, KID and the joint record: closed forms, peers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reals.measure.extractor import Features
from reals.measure.metrics.frechet import Moments, frechet_distance
from reals.measure.metrics.generation import Reference, generation_metrics, reference_of
from reals.measure.metrics.inception_score import inception_score
from reals.measure.metrics.kernel import cmmd, kernel_distance, unbiased_mmd2
from reals.measure.metrics.manifold import _covered, _smallest, memberships, precision_recall, squared_radii
from reals.rng import generator


def normal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=generator(seed, "test"), dtype=torch.float64)


def one_hot_logits(labels: torch.Tensor, classes: int) -> torch.Tensor:
    return 2000.0 * torch.nn.functional.one_hot(labels, classes).float()


# Inception Score


def test_constant_predictions_score_one():
    assert inception_score(torch.tensor([[0.3, -2.0, 5.0]]).expand(50, 3)) == pytest.approx((1.0, 0.0), abs=1e-12)


def test_certain_and_uniform_predictions_score_the_number_of_classes():
    labels = torch.arange(8).repeat(25)[torch.randperm(200, generator=generator(0, "order"))]
    assert inception_score(one_hot_logits(labels, 8)) == pytest.approx((8.0, 0.0), rel=1e-12)


def test_class_sorted_samples_score_lower():
    labels = torch.arange(8).repeat_interleave(25)
    assert inception_score(one_hot_logits(labels, 8), split_size=50)[0] == pytest.approx(2.0, rel=1e-12)


def test_a_short_last_split_counts_as_one():
    logits = normal(25, 6)
    parts = [inception_score(logits[i : i + 10])[0] for i in (0, 10, 20)]
    assert inception_score(logits, split_size=10) == pytest.approx((np.mean(parts), np.std(parts)), rel=1e-12)


def test_inception_score_agrees_with_torch_fidelity():
    peer = pytest.importorskip("torch_fidelity.metric_isc")
    logits = 3 * normal(500, 20).float()
    theirs = peer.isc_features_to_metric(logits, splits=5, shuffle=False)
    ours = inception_score(logits, split_size=100)
    assert ours[0] == pytest.approx(theirs["inception_score_mean"], rel=1e-12)
    assert ours[1] == pytest.approx(theirs["inception_score_std"], rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(-50, 50))
def test_inception_score_is_between_one_and_classes_and_blind_to_a_common_logit(seed, shift):
    logits = 5 * normal(30, 7, seed)
    score, _ = inception_score(logits)
    assert 1 <= score <= 7
    assert inception_score(logits + shift)[0] == pytest.approx(score, rel=1e-10)
    order = torch.randperm(30, generator=generator(seed, "order"))
    assert inception_score(logits[order])[0] == pytest.approx(score, rel=1e-12)


# Precision and recall


def brute_precision_recall(reference: torch.Tensor, samples: torch.Tensor, k: int) -> tuple[float, float]:
    def squared(a, b):
        return (a[:, None] - b[None]).square().sum(-1)

    real, fake = (squared(x, x).sort(dim=1).values[:, k] for x in (reference, samples))
    d = squared(reference, samples)
    precision, recall = (d <= real[:, None]).any(0), (d <= fake[None]).any(1)
    return float(precision.double().mean()), float(recall.double().mean())


def test_a_collapsed_generator_is_precise_and_recalls_little_and_the_swap_is_the_reverse():
    real, tight = normal(300, 8), 0.05 * normal(400, 8, seed=1)
    precision, recall = precision_recall(real, tight)
    assert precision > 0.95 and recall < 0.05
    assert precision_recall(tight, real) == (recall, precision)


def test_one_repeated_sample_inside_the_data_has_full_precision_and_no_recall():
    real = normal(100, 4)
    copies = real.mean(dim=0).expand(50, 4)
    assert precision_recall(real, copies) == (1.0, 0.0)


def test_a_memorising_generator_scores_one_on_both():
    real = normal(200, 6)
    order = torch.randperm(200, generator=generator(0, "order"))
    assert precision_recall(real, real[order]) == (1.0, 1.0)
    assert precision_recall(real, real[:1].expand(10, 6)) == (1.0, 1 / 200)


def test_distant_sets_share_nothing():
    assert precision_recall(normal(50, 3), normal(60, 3, seed=1) + 100) == (0.0, 0.0)


def test_ties_are_inside():
    line = torch.arange(6.0)[:, None]
    # Radii to the 3rd neighbour are 3 2 2 2 2 3: the last ball alone reaches past 5, and ends at 8.
    assert squared_radii(line, k=3).tolist() == [9, 4, 4, 4, 4, 9]
    for x, expected in ((7.99, 1.0), (8.0, 1.0), (8.01, 0.0)):
        assert precision_recall(line.double(), torch.full((4, 1), x, dtype=torch.float64))[0] == expected


def test_copies_far_from_zero_have_distance_zero_although_dot_products_round():
    real = 1e5 + normal(40, 64).float()
    real = torch.cat([real, real, real, real])
    assert squared_radii(real, k=3).max() == 0
    assert precision_recall(real, real[:40].repeat(4, 1)) == (1.0, 1.0)
    assert precision_recall(real, real + 0.01) == (0.0, 0.0)


def test_every_comparison_that_rounding_could_decide_is_made_again():
    # By its rounded product the first centre is the surer one, yet only the second really holds the point.
    point, centres, reach = torch.zeros(1, 1), torch.tensor([[1.0], [2.0]]), torch.tensor([0.99, 4.0]).double()
    norms, wrong = torch.tensor([1.0, 4.0]), torch.tensor([[-0.02, 0.001]])
    for radii, expected in ((reach, True), (torch.tensor([0.99, 3.99]).double(), False)):
        found = _covered(point, torch.zeros(1), centres, norms, radii, wrong, error=0.03, scaled=1.0)
        assert found.tolist() == [expected]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(5, 60), st.integers(5, 60), st.integers(1, 4), st.integers(3, 40),
    st.sampled_from([torch.bfloat16, torch.float32, torch.float64]), st.sampled_from([0.0, 3.0, 1e4]),
)  # fmt: skip
def test_precision_recall_is_the_definition_in_any_arithmetic(seed, m, n, k, rows, arithmetic, offset):
    draw = generator(seed, "grid")
    # Few distinct integer points: ties and copies abound, and the definition is exact in float64.
    real = torch.randint(0, 4, (m, 3), generator=draw).double()
    fake = torch.randint(0, 5, (n, 3), generator=draw).double()
    expected = brute_precision_recall(real, fake, k)
    found = memberships(real + offset, fake + offset, k, arithmetic, rows)
    assert tuple(float(x.double().mean()) for x in found) == expected


@pytest.mark.slow
@pytest.mark.parametrize("arithmetic", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("spread", [1.0, 1e-4])
def test_the_coarse_pass_decides_as_float64_does(arithmetic, spread):
    # spread: how far apart points lie, compared with how far clusters do; small ones crowd the coarse pass.
    centres = normal(3, 48, seed=2)
    real = (centres[torch.arange(700) % 3] + spread * normal(700, 48)).float()
    fake = (centres[torch.arange(900) % 3] + spread * (0.85 * normal(900, 48, seed=1) + 0.05)).float()
    exact = memberships(real, fake, 3, torch.float64)
    assert all(torch.equal(a, b) for a, b in zip(memberships(real, fake, 3, arithmetic, 100), exact, strict=True))
    assert all(0.02 < x.double().mean() < 0.98 for x in exact)
    assert torch.equal(squared_radii(fake, 3, arithmetic), squared_radii(fake, 3, torch.float64))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(40, 3000), st.integers(1, 9))
def test_the_smallest_are_those_of_topk(seed, n, count):
    values = torch.rand(5, n, generator=generator(seed, "smallest"))
    found, columns = _smallest(values, count)
    assert torch.equal(found, values.topk(count, largest=False).values)
    assert torch.equal(values.gather(1, columns), found)


def test_precision_recall_agrees_with_torch_fidelity():
    peer = pytest.importorskip("torch_fidelity.metric_prc")
    real, fake = normal(400, 32), 0.9 * normal(600, 32, seed=1) + 0.1
    theirs = peer.calculate_precision_recall_full(fake, real, neighborhood=3)
    # Theirs keeps float32 means of the indicator.
    assert precision_recall(real, fake, k=3) == pytest.approx(theirs, rel=1e-7)
    assert 0.2 < theirs[0] < 1


def test_precision_recall_refuses_what_it_cannot_measure():
    x = normal(10, 3)
    with pytest.raises(ValueError, match="k is 3 with 10 reference and 3 sample rows"):
        precision_recall(x, x[:3])
    with pytest.raises(ValueError, match="3 and 2 wide"):
        precision_recall(x, x[:, :2])
    with pytest.raises(ValueError, match="sample features: row 4"):
        precision_recall(x, torch.where(torch.arange(10)[:, None] == 4, torch.nan, x))


# KID


def test_kid_agrees_with_torch_fidelity_on_whole_sets():
    peer = pytest.importorskip("torch_fidelity.metric_kid")
    x, y = normal(80, 16), 1.2 * normal(80, 16, seed=1) + 0.2
    theirs = peer.kid_features_to_metric(x, y, kid_subsets=1, kid_subset_size=80, verbose=False)
    ours = kernel_distance(x, y, seed=5, subsets=1, subset_size=80)
    assert ours[0] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-10)


def test_kid_of_one_distribution_is_zero_on_average_and_grows_with_a_shift():
    x, y = normal(2000, 8), normal(2000, 8, seed=1)
    mean, std = kernel_distance(x, y, seed=0, subsets=50, subset_size=100)
    assert abs(mean) < 3 * std / 50**0.5 + 0.01
    shifts = [kernel_distance(x, y + s, seed=0, subsets=10, subset_size=100)[0] for s in (0.5, 1.0)]
    assert 0.1 < shifts[0] < shifts[1]


def test_mmd_is_unbiased_by_exhaustion():
    # The U-statistic over all pairs of a finite population equals its average over all subsets.
    x, y = normal(5, 3), normal(5, 3, seed=1)
    subsets = torch.combinations(torch.arange(5), r=3)
    average = torch.stack([unbiased_mmd2(x[a], y[b]) for a in subsets for b in subsets]).mean()
    assert float(average) == pytest.approx(float(unbiased_mmd2(x, y)), rel=1e-10)


def test_kid_depends_on_its_seed_alone_and_refuses_large_subsets():
    x, y = normal(50, 4), normal(60, 4, seed=1)
    first = kernel_distance(x, y, seed=0, subsets=5, subset_size=20)
    assert kernel_distance(x, y, seed=0, subsets=5, subset_size=20) == first
    assert kernel_distance(x, y, seed=1, subsets=5, subset_size=20) != first
    with pytest.raises(ValueError, match="1000 rows from 50 samples"):
        kernel_distance(x, y, seed=0)


# CMMD


def test_cmmd_is_the_mean_kernel_over_all_pairs():
    """Written out in numpy: rows of length 1, exp(-d^2 / 200), pairs of a row with itself too, times 1000."""
    x, y = (normal(n, 6, seed=n).double().numpy() for n in (40, 25))

    def mean_kernel(a, b):
        a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
        return np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / 200).mean()

    expected = 1000 * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))
    for block in (7, 1024):
        assert cmmd(torch.from_numpy(x), torch.from_numpy(y), block) == pytest.approx(expected, rel=1e-9)
    assert cmmd(torch.from_numpy(x), torch.from_numpy(5 * x)) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="reference features of length 1"):
        cmmd(torch.ones(3, 2), torch.zeros(3, 2))


# The joint record


def features(n: int, seed: int, scale: float = 1.0) -> Features:
    return Features(*(scale * normal(n, d, seed + i).float() for i, d in enumerate((12, 9, 5))))


def test_the_record_is_its_parts():
    real, fake = features(120, 0), features(150, 10, scale=0.9)
    record = generation_metrics(fake, reference_of(real), pr_reference=100, kid_subsets=4, kid_subset_size=50)
    assert set(record) == {"fid", "sfid", "is", "is_std", "precision", "recall", "kid"}
    assert (record["precision"], record["recall"]) == precision_recall(real.pool[:100], fake.pool)
    assert (record["is"], record["is_std"]) == inception_score(fake.logits)
    assert record["kid"] == kernel_distance(fake.pool, real.pool[:100], 0, 4, 50)[0]
    for name, field in (("fid", "pool"), ("sfid", "spatial")):
        a, b = (Moments.of(getattr(x, field)).finalize() for x in (real, fake))
        assert record[name] == pytest.approx(frechet_distance(a.mu, a.sigma, b.mu, b.sigma), rel=1e-9)


def test_the_data_itself_is_perfect_and_streamed_statistics_serve_as_reference():
    real = features(120, 0)
    moments = [Moments.of(x, block=17) for x in (real.pool, real.spatial)]
    reference = Reference(*(Moments.from_dict(m.to_dict()).finalize() for m in moments), real.pool)
    record = generation_metrics(real, reference, pr_reference=120, kid_subsets=1, kid_subset_size=120)
    assert abs(record["fid"]) < 1e-11 and abs(record["sfid"]) < 1e-11
    assert record["precision"] == record["recall"] == 1


def test_a_reference_too_small_is_refused():
    with pytest.raises(ValueError, match="120 pool features, 10000 needed"):
        generation_metrics(features(50, 1), reference_of(features(120, 0)))
