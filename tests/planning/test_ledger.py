"""The count of memory on a GPU that is not there: a case counted by hand, CUDA's rules where a CPU's differ, and what must lower it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reals.planning.ledger import BLOCK, counted

FLOAT, HALF = 4, 2


def test_a_step_of_two_layers_as_counted_by_hand():
    batch, width, hidden = 256, 128, 512
    with counted() as ledger:
        x = torch.randn(batch, width)
        first, second = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, width, bias=False)
        second(torch.relu(first(x))).sum().backward()
    # Most is alive when relu's backward writes: x, the weights, the second's gradient; relu's output, its gradient and its input's.
    whole = FLOAT * (batch * width + 3 * width * hidden + 3 * batch * hidden)
    assert 0 <= ledger.peak - whole <= 8 * BLOCK  # scalars
    # Left: x, weights, gradients.
    assert 0 <= ledger.live - FLOAT * (batch * width + 4 * width * hidden) <= 8 * BLOCK


def saved(function, *shape, precision=None):
    """Bytes that a function of one float32 tensor keeps for its backward pass, beside the tensor."""
    with counted() as ledger:
        x = torch.randn(shape, requires_grad=True)
        before = ledger.live
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            out = function(x)
        kept = ledger.live - before
        del out
    return kept


def test_autocast_follows_cuda():
    n = 64 * 256 * 128
    assert saved(lambda x: F.layer_norm(x @ x.mT, (256,)), 64, 256, 128, precision="bf16") == pytest.approx(
        # x and its transpose in half; the product as float32 for the norm (a CPU's stays in half); the norm's result, its mean and rstd
        HALF * 2 * n + FLOAT * 2 * n + FLOAT * 2 * n + 2 * FLOAT * 64 * 256,
        rel=0.01,
    )
    with counted(), torch.autocast("cpu", torch.bfloat16):
        half = torch.randn(4, 8, 8) @ torch.randn(4, 8, 8)
        assert half.dtype == torch.bfloat16
        assert {f(half).dtype for f in (torch.exp, lambda x: x.softmax(-1), lambda x: x.sum(), lambda x: x**2)} == {torch.float32}
        assert F.group_norm(half, 4).dtype == F.mse_loss(half, half).dtype == torch.float32
        assert torch.addcmul(half, half.float(), half).dtype == torch.float32 and F.gelu(half).dtype == torch.bfloat16
        assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_attention_keeps_no_square(precision):
    size = HALF if precision == "bf16" else FLOAT
    one = 2 * 4 * 1024 * 32  # elements of q, k, v and the result
    kept = saved(lambda x: F.scaled_dot_product_attention(x, 2 * x, 3 * x), 2, 4, 1024, 32, precision=precision)
    casts = HALF * one if precision == "bf16" else 0  # q; k and v are tensors of their own in any case
    assert kept == pytest.approx(casts + size * 3 * one + FLOAT * 2 * 4 * 1024, rel=0.05)


def test_nothing_is_left_patched():
    before = nn.Module.to, torch.is_autocast_enabled("cpu")
    with pytest.raises(RuntimeError, match="planted"), counted():
        raise RuntimeError("planted")
    assert before == (nn.Module.to, torch.is_autocast_enabled("cpu"))
    assert torch.zeros(2).tolist() == [0, 0]
