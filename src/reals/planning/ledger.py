"""Counts the memory that a computation would take on a CUDA device, without one: no kernel runs, only shapes are followed.

Tensors are FakeTensors of device cpu. (Those of device cuda need a CUDA driver in their backward pass.) Where CUDA keeps other
tensors than a CPU does, in autocast and in attention, its rules are followed by hand.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

from reals.method.models import bf16

BLOCK = 512  # bytes; the CUDA caching allocator rounds up to them (kMinBlockSize in CUDACachingAllocator)
FLASH_HEAD = 256  # the widest head of its flash attention; wider ones, and float32, go through the memory-efficient kernel

# The lists of ATen/autocast_mode.h for CUDA; the operations that our networks and losses can come by.
LOWER = frozenset(
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d prelu addmm addmv addr matmul __matmul__ "
    "__rmatmul__ einsum mm mv linear addbmm baddbmm bmm scaled_dot_product_attention".split()
)
FLOAT32 = frozenset(
    "acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow __pow__ __rpow__ softplus layer_norm "
    "native_layer_norm rms_norm group_norm cosine_similarity cosine_embedding_loss nll_loss kl_div l1_loss smooth_l1_loss "
    "huber_loss mse_loss margin_ranking_loss binary_cross_entropy_with_logits dist cdist logsumexp upsample_nearest1d "
    "upsample_nearest2d upsample_linear1d upsample_bilinear2d _upsample_bilinear2d_aa upsample_bicubic2d "
    "_upsample_bicubic2d_aa interpolate".split()
)
FLOAT32_RESULT = frozenset("prod softmax log_softmax cumprod cumsum linalg_vector_norm linalg_matrix_norm sum norm".split())
WIDEST = frozenset("addcdiv addcmul atan2 bilinear cross dot vdot grid_sampler index_put tensordot scatter_add".split())
CAST = LOWER | FLOAT32 | FLOAT32_RESULT | WIDEST


class Ledger(TorchDispatchMode):
    """Bytes of the tensors that are alive, and the most that were at once; each storage rounded up to the allocator's blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: dict[int, int] = {}

    def add(self, tensor: Tensor) -> None:
        """Counts a tensor's storage, once, until it is freed."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return
        self.known[key] = size = -(-storage.nbytes() // BLOCK) * BLOCK
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self.live -= self.known.pop(key, 0)

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            return 1.0  # no number is known here; what reads one logs it, or asks whether all is well
        for value in tree_iter(args):
            if isinstance(value, Tensor) and not isinstance(value, FakeTensor):
                self.add(value)  # of a batch, which a CUDA device would hold a copy of
        result = function(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self.add(value)
        return result


class CudaRules(TorchFunctionMode):
    """The CPU's autocast casts by CUDA's lists, and attention takes CUDA's kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.cast_weights: dict[int, tuple[Tensor, Tensor]] = {}  # kept until autocast ends, as CUDA's does

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, kwargs = getattr(function, "__name__", ""), kwargs or {}
        if function is Tensor.backward:
            return self._backward(args[0])
        if not torch.is_autocast_enabled("cpu"):
            self.cast_weights.clear()
            return self._called(name, function, args, kwargs)
        if name not in CAST:
            return function(*args, **kwargs)
        torch.set_autocast_enabled("cpu", False)
        try:
            args, kwargs = self._cast(name, args, kwargs)
            return self._called(name, function, args, kwargs)
        finally:
            torch.set_autocast_enabled("cpu", True)

    def _backward(self, loss: Tensor) -> None:
        """loss.backward(), in which checkpointed blocks run again under these rules: torch's own would leave this mode for it."""
        with self:
            gradients = (torch.ones_like(loss),)
            _engine_run_backward((loss,), gradients, False, False, (), allow_unreachable=True, accumulate_grad=True)

    def _called(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _attention(*args, **kwargs) if name == "scaled_dot_product_attention" else function(*args, **kwargs)

    def _cast(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        half, dtype = torch.get_autocast_dtype("cpu"), torch.float32
        if name in LOWER:
            dtype = half
        elif name in WIDEST:
            dtypes = [value.dtype for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
            dtype = torch.float32 if torch.float32 in dtypes else half
        elif name in FLOAT32_RESULT:
            if args[0].dtype == half and kwargs.get("dtype") is None:
                kwargs = kwargs | {"dtype": torch.float32}
            return args, kwargs
        return tree_map_only(Tensor, lambda tensor: self._to(tensor, dtype), (args, kwargs))

    def _to(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        if not tensor.is_floating_point() or tensor.dtype in (dtype, torch.float64):
            return tensor
        if not (tensor.is_leaf and tensor.requires_grad and tensor.dtype == torch.float32):
            return tensor.to(dtype)
        if id(tensor) not in self.cast_weights:
            self.cast_weights[id(tensor)] = tensor, tensor.to(dtype)
        return self.cast_weights[id(tensor)][1]


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The kernel that CUDA would choose, by its own name, so that it keeps for the backward pass what that one keeps."""
    if attn_mask is None and q.dtype in (torch.bfloat16, torch.float16) and q.shape[-1] <= FLASH_HEAD:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, dropout_p, is_causal, False, scale=scale)[0]
    backward = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (q, k, v))
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, attn_mask, backward, dropout_p, is_causal, scale=scale
    )[0]


@contextmanager
def counted() -> Iterator[Ledger]:
    """Inside, tensors take no memory, and the ledger counts what they would take on a CUDA device."""
    with (
        patch.object(nn.Module, "to", _stay),  # FakeTensors that are watched cannot be moved, and are where they belong
        patch.object(bf16, "_applies", lambda x: False),  # what a CPU does instead of the stock calls
        FakeTensorMode(allow_non_fake_inputs=True),
        CudaRules(),
        Ledger() as ledger,
    ):
        yield ledger


def _stay(module: nn.Module, *where: object, **how: object) -> nn.Module:
    return module
