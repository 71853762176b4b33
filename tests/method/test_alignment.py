"""Eqs. 1 and 2: shapes, optimum, gradients, and what may be left out."""

import pytest
import torch
import torch.nn.functional as F

from reals import rng
from reals.method.alignment import AlignNetworks, AlignWeights, align_loss, feature_loss, initialise

Z = torch.randn(3, 4, 8, 8, generator=rng.generator(0, "z"))


def networks(**kwargs):
    made = AlignNetworks(**{"latent_channels": 4, "dim": 12, "layers": 2, "hidden": 16, "patch": True, "cls": True} | kwargs)
    initialise(made, rng.generator(0, "align"))
    return made


def test_tokens_are_in_row_order_and_cls_sees_the_average():
    made = networks()
    patch, cls = made(Z)
    assert patch.shape == (3, 64, 12)
    assert cls.shape == (3, 12)
    torch.testing.assert_close(patch[1, 8 * 5 + 2], made.patch(Z[1, :, 5, 2]))
    torch.testing.assert_close(cls, made.cls(Z.mean((2, 3))))


@pytest.mark.parametrize(
    ("layers", "count"), [(1, 4 * 12 + 12), (2, 4 * 16 + 16 + 16 * 12 + 12), (4, 4 * 16 + 16 + 2 * (16 * 16 + 16) + 16 * 12 + 12)]
)
def test_depths_of_table_7(layers, count):
    assert sum(p.numel() for p in networks(layers=layers).patch.parameters()) == count


def test_loss_is_zero_exactly_where_features_agree():
    x = torch.randn(5, 7, 12)
    assert feature_loss(x, x, AlignWeights())[0].abs() < 1e-6
    total, cosine, _ = feature_loss(2 * x, x, AlignWeights())
    assert cosine.abs() < 1e-6
    torch.testing.assert_close(total, 0.1 * F.smooth_l1_loss(2 * x, x))
    total, cosine, _ = feature_loss(-x, x, AlignWeights(1.0, 0.0))
    torch.testing.assert_close(total, torch.tensor(2.0))


def test_gradient_reaches_latents_and_networks_but_not_the_teacher():
    made, z = networks(), Z.clone().requires_grad_()
    patch, cls = torch.randn(3, 64, 12, requires_grad=True), torch.randn(3, 12, requires_grad=True)
    align_loss(made, z, patch.detach(), cls.detach(), AlignWeights()).total.backward()
    assert z.grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for p in made.parameters())


def test_either_target_alone_is_table_5():
    patch, cls = torch.randn(3, 64, 12), torch.randn(3, 12)
    both = align_loss(networks(), Z, patch, cls, AlignWeights())
    only = align_loss(networks(cls=False), Z, patch, cls, AlignWeights())
    assert set(only.parts) == {"patch_cosine", "patch_smooth_l1"}
    made = networks()
    cls_loss = feature_loss(made.cls(Z.mean((2, 3))), cls, AlignWeights())[0]
    torch.testing.assert_close(both.total, only.total + cls_loss)


def test_a_grid_that_does_not_match_is_refused():
    with pytest.raises(ValueError, match="teacher's grid must equal the latent grid"):
        align_loss(networks(), Z, torch.randn(3, 49, 12), torch.randn(3, 12), AlignWeights())


def test_a_token_of_several_cells_is_their_channels_together():
    """Against a loop over tokens; the cls term sees the mean over all cells as ever."""
    made, z = networks(cells=2, latent_channels=3, dim=5), torch.randn(2, 3, 4, 6, generator=rng.generator(1, "z"))
    patch, cls = made(z)
    assert patch.shape == (2, 6, 5)
    for row in range(2):
        for column in range(3):
            cells = z[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten(1)
            torch.testing.assert_close(patch[:, 3 * row + column], made.patch(cells))
    torch.testing.assert_close(cls, made.cls(z.mean((2, 3))))
    assert AlignNetworks(**made.settings).settings == made.settings
    assert "cells" not in networks().settings  # files written before there was a choice
