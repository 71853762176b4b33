"""Masks and depth without labels: ink, and the foreground of tokens."""

import torch

from reals.measure.metrics.unlabelled import foreground, ink


def test_ink_and_depth_of_a_stroke():
    images = torch.zeros(1, 3, 9, 9, dtype=torch.uint8)
    images[:, :, 2:7, 2:7] = 255
    mask, depth = ink(images)
    assert mask.sum() == 25
    assert depth[0, 4, 4] == 3
    assert depth[0, 2, 2] == 1
    assert depth[0, 0, 0] == 0


def test_label_free_foreground_is_bright_where_the_object_is():
    tokens = torch.randn(6, 64, 8) * 0.1
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[2:6, 2:6] = True
    tokens[:, inside.flatten()] += torch.tensor([2.0, -1, 0, 0, 1, 0, 0, 0])
    mask = foreground(tokens)
    assert mask[:, inside].min() > mask[:, ~inside].max()
