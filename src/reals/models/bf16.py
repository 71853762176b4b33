"""Linear layers and attention for bfloat16 training on a CPU, where the stock backward passes leave the matrix unit idle.

The same function and gradients as `F.linear` and `F.scaled_dot_product_attention` under autocast, up to bfloat16 rounding.
Everywhere else (float32, a GPU, no gradients) these are the stock calls.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGES_AT_ONCE = 2  # in attention's backward


class Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        if not _applies(x):
            return super().forward(x)
        return _Linear.apply(*(a.to(torch.bfloat16) for a in (x, self.weight, self.bias)))


def attention(qkv: Tensor) -> Tensor:
    """Softmax attention of qkv [B, T, 3, H, D] over the T tokens: [B, T, H, D]."""
    if _applies(qkv):
        return _Attention.apply(qkv.to(torch.bfloat16))
    return _attended(qkv)


def _applies(x: Tensor) -> bool:
    here = x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return here and torch.is_grad_enabled()


def _attended(qkv: Tensor) -> Tensor:
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


class _Linear(torch.autograd.Function):
    """oneDNN's bfloat16 product runs at half speed when its left operand is a transposed view; a copy costs far less."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        outer, inner = grad.flatten(0, -2), x.flatten(0, -2)
        if outer.shape[1] > inner.shape[1]:  # the narrower one is the cheaper to copy
            d_weight = (inner.t().contiguous() @ outer).t()
        else:
            d_weight = outer.t().contiguous() @ inner
        return grad @ weight, d_weight, outer.sum(dim=0)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, qkv: Tensor) -> Tensor:
        ctx.save_for_backward(qkv)
        return _attended(qkv)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
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
