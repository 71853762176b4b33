"""Linear layers and attention for bfloat16 training on a CPU, where the stock backward passes leave the matrix unit idle.

The same function and gradients as `F.linear` and `F.scaled_dot_product_attention` under autocast, up to bfloat16 rounding.
Everywhere else (float32, a GPU, no gradients) these are the stock calls.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGES_AT_ONCE = 2  # in attention's backward
ROWS_AT_ONCE = 64  # in a transposed copy


class Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        if not _applies(x):
            return super().forward(x)
        return _Linear.apply(x.to(torch.bfloat16), self.weight, self.bias)


def attention(qkv: Tensor) -> Tensor:
    """Softmax attention of qkv [B, T, 3, H, D] over the T tokens: [B, T, H, D]."""
    if _applies(qkv):
        return _Attention.apply(qkv.to(torch.bfloat16))
    return _attended(qkv)


def _applies(x: Tensor) -> bool:
    here = x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return here and torch.is_grad_enabled()


def _attended(qkv: Tensor) -> Tensor:
    # Apart first, heads forward then: the gradients' stack is laid out as qkv, and needs no copy.
    q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


class _Linear(torch.autograd.Function):
    """oneDNN's bfloat16 product runs at half speed when its left operand is a transposed view; a copy costs far less."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.dtype, half = weight.dtype, weight.to(x.dtype)
        ctx.save_for_backward(x, half)
        return F.linear(x, half, bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        outer, inner = grad.flatten(0, -2), x.flatten(0, -2)
        if outer.shape[1] > inner.shape[1]:  # the narrower one is the cheaper to copy
            d_weight = _transposed(_transposed(inner, inner.dtype) @ outer, ctx.dtype)
        else:
            d_weight = (_transposed(outer, outer.dtype) @ inner).to(ctx.dtype)
        d_bias = outer.new_ones(1, len(outer)) @ outer  # as a product: a sum over rows is read twice as slowly
        return grad @ weight, d_weight, d_bias[0].to(ctx.dtype)


@torch.library.custom_op("reals::transposed", mutates_args=())
def _transposed(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x [n, m] -> [m, n], contiguous; some rows at a time, since whole columns of a power of two fall on the same cache lines."""
    out = torch.empty(x.shape[1], x.shape[0], dtype=dtype, device=x.device)
    for first in range(0, len(x), ROWS_AT_ONCE):
        some = slice(first, first + ROWS_AT_ONCE)
        out[:, some].copy_(x[some].t())
    return out


@_transposed.register_fake
def _(x: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty(x.shape[1], x.shape[0], dtype=dtype, device=x.device)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor) -> Tensor:
        ctx.save_for_backward(qkv)
        return _attended(qkv)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _attention_backward(*ctx.saved_tensors, grad)


@torch.library.custom_op("reals::attention_backward", mutates_args=())  # one opaque call for torch.compile, not an unrolled loop
def _attention_backward(qkv: Tensor, grad: Tensor) -> Tensor:
    """The gradient of qkv [B, T, 3, H, D] for that of the output [B, T, H, D].

    Plain batched products, twice as fast as the backward kernel of the CPU's flash attention; a few images at a time, so
    that the weights stay in the cache. The logits are made again in float32: bfloat16 would round large ones by whole units.
    """
    batch, _, _, heads, width = qkv.shape
    scale = width**-0.5
    d_qkv = torch.empty_like(qkv)
    with torch.autocast("cpu", enabled=False):
        for first in range(0, batch, IMAGES_AT_ONCE):
            some = slice(first, first + IMAGES_AT_ONCE)
            q, k, v = qkv[some].permute(2, 0, 3, 1, 4).flatten(1, 2).unbind(0)
            towards = grad[some].transpose(1, 2).flatten(0, 1)
            weights = ((scale * q.float()) @ k.float().mT).softmax(dim=-1).to(qkv.dtype)
            slope = torch._softmax_backward_data(towards @ v.mT, weights, -1, weights.dtype)
            for part, product in enumerate([(slope @ k).mul_(scale), (slope.mT @ q).mul_(scale), weights.mT @ towards]):
                d_qkv[some, :, part] = product.unflatten(0, (-1, heads)).transpose(1, 2)
    return d_qkv


@_attention_backward.register_fake
def _(qkv: Tensor, grad: Tensor) -> Tensor:
    return torch.empty_like(qkv)
