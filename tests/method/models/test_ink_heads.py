"""Heads on tokens learn what the tokens hold."""

import torch

from reals.method.models.heads import InkHeads


def test_heads_learn_what_the_tokens_hold():
    heads = InkHeads(4, 4)
    mask, depth = heads(torch.randn(5, 64, 4))
    assert mask.shape == depth.shape == (5, 32, 32)
    assert (depth >= 0).all()
    token = torch.zeros(2, 64, 4)
    token[:, 9] = 5.0
    moved = (heads.eval()(token)[0] - heads(torch.zeros(2, 64, 4))[0])[0].detach()
    rows, columns = moved.abs().nonzero(as_tuple=True)
    assert set(rows.tolist()) <= {4, 5, 6, 7}
    assert set(columns.tolist()) <= {4, 5, 6, 7}
