"""What the classifiers are trained on: a share of the images, and the teacher's patch loss."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reals.method.models import teacher as teachers
from reals.training.tasks.classifier import ClassifierTask, part_of


def test_the_patch_loss_is_the_mean_cross_entropy_of_the_patch_tokens(tmp_path):
    network = teachers.build(teachers.TeacherConfig("", 4, 2, (0.5,) * 3, (0.5,) * 3, 16, 1, 2, 5))
    x, y = torch.randn(3, 3, 8, 8), torch.tensor([0, 4, 2])

    def task(weight):
        return ClassifierTask(network, None, None, 1, 3, 0.1, 0, False, patch_loss=weight)

    alone = task(None).loss(x, y)
    by_hand = torch.stack([
        torch.nn.functional.cross_entropy(network.head(tokens), label.expand(4))
        for tokens, label in zip(network.forward_features(x)[:, 1:], y, strict=True)
    ]).mean()  # fmt: skip
    torch.testing.assert_close(task(0.5).loss(x, y), alone + 0.5 * by_hand)


@pytest.mark.parametrize("n", [7, 100, 50_000])
def test_shares_that_do_not_meet_have_no_image_in_common_and_all_of_them_are_all(n):
    first, second, third = (part_of(n, share, 5) for share in [(0, 0.3), (0.3, 0.5), (0.5, 1)])
    assert sorted([*first, *second, *third]) == list(range(n))
    assert len(third) == pytest.approx(0.5 * n, abs=1)
    assert part_of(n, None, 5) is None
    assert not np.array_equal(first, part_of(n, (0, 0.3), 6))


def test_an_empty_share_is_refused():
    with pytest.raises(ValueError, match=r"share: \[0.5, 0.51\] of 10 training images is none"):
        part_of(10, (0.5, 0.51), 0)


def test_batches_are_of_the_share_alone_and_see_all_of_it():
    images = SimpleNamespace(
        resolution=32, labels=np.arange(40), batch=lambda indices: np.zeros((len(indices), 3, 32, 32), np.uint8)
    )
    among = part_of(40, (0.25, 0.75), 0)
    network = torch.nn.Conv2d(3, 3, 1)
    task = ClassifierTask(network, None, images, 5, 4, 0.1, 0, False, among=among)
    seen = torch.cat([task.loaded(step).classes for step in range(5)]).tolist()
    assert sorted(seen) == among.tolist()
