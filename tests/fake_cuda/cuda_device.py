"""A CUDA device without a GPU: tensors that are FakeTensors of device cuda, and a record of what a GPU would have to wait for.

CPU tensors keep their values; tensors on the device have a shape, strides and a type alone, no kernel runs, and what is copied back
is zeros. Autograd's backward pass needs `shim.cpp` loaded before torch. The patches here are for a process that does nothing else.
"""

import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch._subclasses.fake_tensor as fake_tensor
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

CUDA = torch.device("cuda", 0)

REFUSED = frozenset(
    """
    _adaptive_avg_pool2d_backward _adaptive_avg_pool3d_backward _upsample_bicubic2d_aa_backward _upsample_bilinear2d_aa_backward
    _ctc_loss_backward adaptive_max_pool2d_backward avg_pool3d_backward bincount fractional_max_pool2d_backward
    fractional_max_pool3d_backward grid_sampler_2d_backward grid_sampler_3d_backward histc kthvalue max_pool3d_with_indices_backward
    max_unpool2d max_unpool3d median.dim nll_loss2d_backward nll_loss2d_forward put_ reflection_pad1d_backward
    reflection_pad2d_backward reflection_pad3d_backward replication_pad1d_backward replication_pad2d_backward
    replication_pad3d_backward upsample_bicubic2d_backward upsample_bilinear2d_backward upsample_linear1d_backward
    upsample_trilinear3d_backward
    """.split()
)
"""Operations that CUDA refuses under torch.use_deterministic_algorithms(True), from its documentation and ATen's
alertNotDeterministic. Those that then take another kernel, such as index_put_ or attention's backward, are not among them."""

OF_UNKNOWN_SIZE = frozenset(["nonzero", "masked_select", "_unique2", "unique_consecutive", "unique_dim", "bincount"])
"""The host waits to learn how large the result is."""


class Record(TorchDispatchMode):
    """What happened on the device since `begin`. Keys are ``operation file:line`` of our code (``backward``: autograd's thread)."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()  # the host waits for the device, or for a copy from memory that is not pinned
        self.refused: Counter[str] = Counter()  # no deterministic kernel
        self.dtypes: Counter[str] = Counter()  # of matrix products and convolutions
        self.live = self.peak = 0  # bytes, rounded up to the allocator's 512, without fragmentation and workspaces
        self._seen: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not any(isinstance(t, FakeTensor) for t in given) and torch.device(kwargs.get("device") or "cpu").type == "cpu":
            with _disable_current_modes():
                return func(*args, **kwargs)
        name = func._schema.name.split("::")[1]
        if name == "_local_scalar_dense":
            return self._number(args[0])
        mask = _mask(name, args)
        if mask is not None:
            self.wait(f"mask in {name}")
            return _all_of(name, args, mask)
        out = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self._look(name, func, args, kwargs, given, made)
        if made and made[0].device.type == "cpu" and isinstance(made[0], FakeTensor):
            with _disable_current_modes():
                return torch.zeros(made[0].shape, dtype=made[0].dtype)
        return out

    def begin(self) -> None:
        """Forgets what happened so far; what is held stays."""
        for counter in (self.waits, self.refused, self.dtypes):
            counter.clear()
        self.peak = self.live

    def wait(self, what: str) -> None:
        self.waits[f"{what} {_line()}"] += 1

    def hold(self, *held: Tensor) -> None:
        """Counts tensors that were there before."""
        for t in held:
            if t.device.type != "cuda":
                continue
            storage = t.untyped_storage()
            if storage._cdata not in self._seen:
                size = -(-storage.nbytes() // 512) * 512
                self._seen[storage._cdata] = size
                self.live += size
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._gone, storage._cdata)

    def _gone(self, key: int) -> None:
        self.live -= self._seen.pop(key)

    def _number(self, t: Tensor) -> float | bool:
        if t.device.type == "cuda":
            self.wait("number")
        # No values here: all is finite and every condition true, but "is NaN".
        return getattr(t, "answer", True) if t.dtype == torch.bool else 1.0 if t.is_floating_point() else 1

    def _look(self, name: str, func: Any, args: tuple, kwargs: dict, given: list[Tensor], made: list[Tensor]) -> None:
        self.hold(*made)
        source = given[-1] if name == "copy_" and len(given) > 1 else given[0] if given else None
        if name in ("isnan", "any", "all") and made and source is not None:
            made[0].answer = name != "isnan" and getattr(source, "answer", True)  # type: ignore[attr-defined]
        if not any(t.device.type == "cuda" for t in [*given, *made]):
            return
        if name in ("_to_copy", "copy_") and made and source is not None and source.device.type != made[0].device.type:
            later = kwargs.get("non_blocking", args[2] if name == "copy_" and len(args) > 2 else False)
            if not later or (source.device.type == "cpu" and not _pinned(source)):
                self.wait(f"copy {source.device.type} to {made[0].device.type}")
        if name in OF_UNKNOWN_SIZE:
            self.wait(name)
        if name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            isinstance(i, Tensor) and i.device.type == "cpu" for i in args[1]
        ):
            self.wait(f"CPU index in {name}")
        if {name, f"{name}.{func._schema.overload_name}"} & REFUSED:
            self.refused[f"{name} {_line()}"] += 1
        if name in ("mm", "addmm", "bmm", "baddbmm", "convolution"):
            self.dtypes[str(made[0].dtype).removeprefix("torch.")] += 1
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Generator) and made and leaf.device.type != made[0].device.type:
                raise RuntimeError(f"{name}: a generator on {leaf.device} for a tensor on {made[0].device}, at {_line()}")


def _line() -> str:
    """File and line of the innermost call of our code."""
    frame = sys._getframe(2)
    while frame is not None:
        if "/src/reals/" in frame.f_code.co_filename:
            return f"{frame.f_code.co_filename.rsplit('/src/reals/')[-1]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "backward"


def _mask(name: str, args: tuple) -> Tensor | None:
    """The boolean mask on the device that an operation indexes with, if it does."""
    if name not in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return None
    return next((i for i in args[1] if isinstance(i, Tensor) and i.dtype == torch.bool and i.device.type == "cuda"), None)


def _all_of(name: str, args: tuple, mask: Tensor) -> Tensor:
    """The result of indexing by a mask that is true everywhere."""
    if name == "index":
        return args[0].reshape(mask.numel(), *args[0].shape[mask.ndim :]).clone()
    return args[0] if name.endswith("_") else args[0].clone()


_pinned_storages: dict[int, Tensor] = {}


def _pin(t: Tensor) -> Tensor:
    """A copy that counts as pinned, for good."""
    pinned = t.clone()
    _pinned_storages[pinned.untyped_storage().data_ptr()] = pinned
    return pinned


def _empty(*size: Any, pin_memory: bool = False, made: Callable[..., Tensor] = torch.empty, **settings: Any) -> Tensor:
    return _pin(made(*size, **settings)) if pin_memory else made(*size, **settings)


def _pinned(t: Tensor) -> bool:
    return not isinstance(t, FakeTensor) and t.untyped_storage().data_ptr() in _pinned_storages


class _Python(TorchFunctionMode):
    """Calls that never reach the dispatcher as operations of the device, or choose a kernel by the driver."""

    def __init__(self, record: Record):
        super().__init__()
        self.record = record

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor, Tensor.new_tensor):
            own = func is Tensor.new_tensor
            data, device = args[1] if own else args[0], kwargs.get("device", args[0].device if own else None)
            if device is not None and torch.device(device).type == "cuda" and not isinstance(data, Tensor):
                self.record.wait("numbers to the device")
                like = args[0].dtype if own else torch.tensor(data).dtype
                return torch.empty(np.shape(data), device=CUDA, dtype=kwargs.get("dtype") or like)
        elif func is Tensor.numpy and args[0].device.type == "cuda":
            raise TypeError(f"numpy() of a tensor on the device, at {_line()}")
        elif func is F.scaled_dot_product_attention and args[0].device.type == "cuda":
            return _attention(*args, **kwargs)
        return func(*args, **kwargs)


def _attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
               is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False) -> Tensor:  # fmt: skip
    """Flash attention for half precision, memory-efficient attention else: what CUDA chooses at our sizes."""
    if torch.is_autocast_enabled("cuda"):
        q, k, v = (part.to(torch.get_autocast_dtype("cuda")) for part in (q, k, v))
    if q.dtype in (torch.bfloat16, torch.float16):
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, dropout_p, is_causal, False, scale=scale)[0]
    wants_gradient = torch.is_grad_enabled() and any(part.requires_grad for part in (q, k, v))
    attend = torch.ops.aten._scaled_dot_product_efficient_attention
    return attend(q, k, v, None, wants_gradient, dropout_p, is_causal, scale=scale)[0]


@torch.no_grad()
def _apply(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """What `nn.Module.to` does, by new parameters: the storage of a real one cannot become a fake one's."""
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                part._parameters[name] = nn.Parameter(change(p), p.requires_grad)
        for name, b in part._buffers.items():
            part._buffers[name] = b if b is None else change(b)
    return module


def pretend() -> None:
    """From now on torch believes in one CUDA device, whose tensors are made within `recorded`."""
    nothing = lambda *_, **__: None  # noqa: E731
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 1
    torch.cuda.current_device = lambda: 0
    torch.cuda.is_bf16_supported = lambda *_, **__: True
    torch.cuda.max_memory_allocated = lambda *_, **__: 0
    torch.cuda.synchronize = torch.cuda._lazy_init = torch._C._cuda_init = nothing
    fake_tensor.init_gpu_context = nothing
    torch.optim.Optimizer._accelerator_graph_capture_health_check = nothing
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    Tensor.pin_memory, torch.empty = _pin, _empty
    nn.Module._apply = _apply
    chosen, ordered = torch._C._select_conv_backend, torch._C._conv_determine_backend_memory_format

    def backend(x: Tensor, *rest: Any, **more: Any) -> Any:
        return torch._C._ConvBackend.Cudnn if x.device.type == "cuda" else chosen(x, *rest, **more)

    def order(x: Tensor, weight: Tensor, *rest: Any) -> torch.memory_format:
        if x.device.type != "cuda":
            return ordered(x, weight, *rest)
        orders = [torch._prims_common.suggest_memory_format(t) for t in (x, weight)]
        return torch.channels_last if x.ndim == 4 and torch.channels_last in orders else torch.contiguous_format

    torch._C._select_conv_backend, torch._C._conv_determine_backend_memory_format = backend, order


class _NoDriver(FakeTensorMode):
    avoid_device_init = True  # torch says so itself only where it sees no device


@contextmanager
def recorded() -> Iterator[Record]:
    """A block in which tensors on the device are fake; what happens there."""
    record = Record()
    with _NoDriver(allow_non_fake_inputs=True), record, _Python(record):
        yield record
