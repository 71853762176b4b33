"""Shifts and crops stay within the image."""

import torch

from reals.training.tasks.augmentation import cropped, shifted


def test_shifting_repeats_edges_and_stays_within_reach():
    x = torch.arange(2 * 1 * 6 * 6, dtype=torch.uint8).view(2, 1, 6, 6)
    moved = shifted(x, 1, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(x.float(), (1, 1, 1, 1), mode="replicate").to(torch.uint8)
    for a, p in zip(moved, padded, strict=True):
        assert any(torch.equal(a, p[:, i : i + 6, j : j + 6]) for i in range(3) for j in range(3))


def test_crops_have_the_area_asked_for_and_lie_inside_the_image():
    ramp = torch.arange(256, dtype=torch.float32).expand(64, 1, 16, 256).to(torch.uint8)
    cut = cropped(ramp, (0.25, 0.25), torch.Generator().manual_seed(1))
    width = cut[:, 0, 0, -1] - cut[:, 0, 0, 0]  # of a quarter of the area: half a side, times at most the root of 4/3
    assert (width > 128 * (3 / 4) ** 0.5 - 3).all() and (width < 128 * (4 / 3) ** 0.5 + 3).all() and width.std() > 5
    assert cut[:, 0, 0, 0].std() > 20  # the place varies
    assert (cut[..., 1:] > cut[..., :-1]).all()  # no edge is repeated: nothing lies outside
    assert torch.equal(cut, cropped(ramp, (0.25, 0.25), torch.Generator().manual_seed(1)))
