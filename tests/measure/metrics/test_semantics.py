"""Semantic consistency, probes and maps: invariances, closed forms, parity with torchvision."""

import math

import pytest
import torch

from reals.measure.metrics import semantics
from reals.measure.metrics.semantics import ViewSettings, random_view, semantic_consistency, token_similarity
from reals.rng import generator

SMALL = ViewSettings(blur_kernel=5)


def images(n: int = 6, size: int = 32) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=generator(0, "images"))


def pooled(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(x, 8) - 0.5


@pytest.mark.parametrize("augmentation", semantics.AUGMENTATIONS)
def test_consistency_is_one_for_a_constant_latent_and_below_for_pixels(augmentation):
    x = images()
    assert semantic_consistency(lambda v: torch.ones(len(v), 4, 2, 2), x, augmentation, SMALL, 0).sc == pytest.approx(1)
    assert -1 <= semantic_consistency(pooled, x, augmentation, SMALL, 0).sc < 0.99


def test_consistency_is_the_mean_cosine_of_algorithm_1():
    x = images()
    cosines = []
    for i, image in enumerate(x):
        z = [pooled(random_view(image, "all", SMALL, 3, i, v)[None]).flatten().double() for v in (1, 2)]
        cosines.append(float(z[0] @ z[1] / (z[0].norm() * z[1].norm())))
    assert semantic_consistency(pooled, x, "all", SMALL, 3).sc == pytest.approx(sum(cosines) / 6, rel=1e-6)


def test_centred_consistency_is_blind_to_what_all_images_share():
    x, offset = images(), torch.linspace(3, 7, 3)[:, None, None]
    plain, shifted = (semantic_consistency(f, x, "crop", SMALL, 0) for f in (pooled, lambda v: pooled(v) + offset))
    assert shifted.sc > plain.sc + 0.1
    assert shifted.centred == pytest.approx(plain.centred, rel=1e-4)
    z = [
        torch.stack([pooled(random_view(image, "crop", SMALL, 0, i, v)[None])[0].flatten() for i, image in enumerate(x)]).double()
        for v in (1, 2)
    ]
    mean = torch.cat(z).mean(dim=0)
    expected = torch.nn.functional.cosine_similarity(z[0] - mean, z[1] - mean).mean()
    assert plain.centred == pytest.approx(float(expected), rel=1e-6)


def test_consistency_does_not_depend_on_batching_and_does_on_the_seed():
    x = images()
    values = [semantic_consistency(pooled, x, "all", SMALL, 0, batch_size=b).sc for b in (1, 4, 64)]
    assert values[1:] == pytest.approx(values[:1] * 2, rel=1e-6)
    assert semantic_consistency(pooled, x, "all", SMALL, 1).sc != pytest.approx(values[0], rel=1e-6)


def test_views_without_any_freedom_are_the_image():
    x = images(1)[0]
    still = ViewSettings(crop_scale=(1, 1), crop_ratio=(1, 1), flip_probability=0, blur_probability=0, grayscale_probability=0)
    torch.testing.assert_close(random_view(x, "all", still, 0, 0, 1), x, rtol=0, atol=1e-6)


def test_each_augmentation_does_its_own_on_the_same_crop():
    x = images(1)[0]
    settings = ViewSettings(flip_probability=1, blur_kernel=5, blur_sigma=(1, 1))
    crop, flip, blur, gray = (random_view(x, a, settings, 0, 7, 1) for a in ("crop", "flip", "blur", "grayscale"))
    torch.testing.assert_close(flip, crop.flip(-1))
    torch.testing.assert_close(blur, semantics.gaussian_blur(crop, 5, 1.0))
    assert (gray[0] == gray[1]).all() and (gray[0] == gray[2]).all()
    torch.testing.assert_close(gray[0], 0.299 * crop[0] + 0.587 * crop[1] + 0.114 * crop[2])
    together = semantics.gaussian_blur(gray.flip(-1), 5, 1.0)
    torch.testing.assert_close(random_view(x, "all", settings, 0, 7, 1), together)
    assert not torch.equal(crop, random_view(x, "crop", settings, 0, 7, 2))
    assert not torch.equal(crop, random_view(x, "crop", settings, 0, 8, 1))


def test_crops_stay_in_their_ranges():
    # On two linear ramps the slopes of a view are those of the ramps times the sides of its crop.
    ramp = torch.linspace(0, 1, 64)
    x = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64), torch.zeros(64, 64)])
    settings = ViewSettings(crop_scale=(0.3, 0.6), crop_ratio=(0.5, 2.0))
    areas, ratios = [], []
    for i in range(200):
        view = random_view(x, "crop", settings, 0, i, 1)
        width = float(view[0, 32, 40] - view[0, 32, 24]) / float(ramp[40] - ramp[24])
        height = float(view[1, 40, 32] - view[1, 24, 32]) / float(ramp[40] - ramp[24])
        areas.append(width * height)
        ratios.append(math.log(width / height))
    assert 0.28 < min(areas) < 0.34 and 0.56 < max(areas) < 0.62
    assert -math.log(2.1) < min(ratios) < -0.5 and 0.5 < max(ratios) < math.log(2.1)
    assert abs(sum(ratios) / 200) < 0.1


def test_blur_and_resize_are_torchvisions():
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    x = images(1)[0]
    torch.testing.assert_close(
        semantics.gaussian_blur(x, 7, 1.3), functional.gaussian_blur(x, [7, 7], [1.3, 1.3]), rtol=0, atol=1e-6
    )
    # A square as large as a wide image never fits, so the crop is the central square.
    wide = torch.rand(3, 16, 64, generator=generator(0, "wide"))
    view = random_view(wide, "crop", ViewSettings(crop_scale=(1, 1), crop_ratio=(1, 1)), 0, 0, 1)
    theirs = functional.resized_crop(wide, 0, 24, 16, 16, [16, 64], antialias=True)
    torch.testing.assert_close(view, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"crop_scale": (0.5, 0.2)},
        {"crop_scale": (0.5, 1.2)},
        {"blur_kernel": 4},
        {"flip_probability": 1.5},
        {"blur_sigma": (0, 1)},
    ],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        ViewSettings(**settings)


def test_bad_calls_are_refused():
    with pytest.raises(ValueError, match="'colour', expected one of crop"):
        semantic_consistency(pooled, images(), "colour", SMALL, 0)
    with pytest.raises(ValueError, match="uint8"):
        semantic_consistency(pooled, images().to(torch.uint8), "crop", SMALL, 0)
    with pytest.raises(ValueError, match="blur_kernel: 23"):
        semantic_consistency(pooled, images(size=8), "blur", ViewSettings(), 0)


def clusters(n: int, spread: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.arange(n) % 4
    centres = 3 * torch.eye(4, 6)
    return centres[y] + spread * torch.randn(n, 6, generator=generator(seed, "clusters")), y


def test_knn_is_the_vote_of_the_nearest_by_cosine():
    train_x, train_y = clusters(120, 1.5, 0)
    test_x, test_y = clusters(80, 1.5, 1)
    unit = torch.nn.functional.normalize
    nearest = (unit(test_x) @ unit(train_x).T).topk(20).indices
    votes = torch.nn.functional.one_hot(train_y[nearest], 4).sum(1)
    expected = float((votes.argmax(1) == test_y).double().mean())
    assert 0.5 < expected < 1
    assert semantics.knn_accuracy(train_x, train_y, test_x, test_y) == pytest.approx(expected)
    assert semantics.knn_accuracy(9 * train_x, train_y, test_x, test_y) == pytest.approx(expected)
    with pytest.raises(ValueError, match="k is 121"):
        semantics.knn_accuracy(train_x, train_y, test_x, test_y, k=121)


def test_probe_and_silhouette_tell_clusters_from_noise():
    near, far = clusters(200, 0.3, 0), clusters(200, 0.3, 1)
    assert semantics.linear_probe_accuracy(*near, *far) == 1
    assert semantics.linear_probe_accuracy(1e3 * near[0] + 5, near[1], 1e3 * far[0] + 5, far[1]) == 1
    # One small coordinate separates, five are large noise: a probe that does not standardise misses it.
    scale, first = torch.tensor([1e-5, 1, 1, 1, 1, 1]), torch.tensor([1.0, 0, 0, 0, 0, 0])
    noise = (1 - first) * torch.randn(200, 6, generator=generator(3, "noise"))
    hidden = [scale * (x * first + noise) for x, _ in (near, far)]
    assert semantics.linear_probe_accuracy(hidden[0], near[1] == 0, hidden[1], far[1] == 0) > 0.98
    noise = torch.randn(200, 6, generator=generator(2, "noise"))
    assert semantics.linear_probe_accuracy(noise, near[1], far[0], far[1]) < 0.6
    assert semantics.silhouette(*near) > 0.7 > 0.1 > semantics.silhouette(noise, near[1])


@pytest.mark.slow
def test_tsne_is_reproducible_and_keeps_clusters_apart():
    x, y = clusters(80, 0.1, 0)
    embedding = semantics.tsne(x, seed=0, perplexity=10)
    assert embedding.shape == (80, 2) and embedding.dtype.name == "float32"
    assert (embedding == semantics.tsne(x, seed=0, perplexity=10)).all()
    assert semantics.silhouette(torch.tensor(embedding), y) > 0.7


def test_token_similarity_is_the_cosine_with_the_anchor():
    z = torch.zeros(2, 2, 3)
    z[0], z[:, 0, 1], z[:, 1, 2] = 2.0, torch.tensor([0.0, 5.0]), torch.tensor([-1.0, 0.0])
    torch.testing.assert_close(token_similarity(z, (0, 0)), torch.tensor([[1.0, 0, 1], [1, 1, -1]]))
    with pytest.raises(ValueError, match=r"anchor \(2, 0\)"):
        token_similarity(z, (2, 0))
