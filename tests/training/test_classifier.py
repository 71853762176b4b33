"""The teacher's patch loss."""

import torch

from reals.method.models import teacher as teachers
from reals.training.tasks.classifier import ClassifierTask


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
