"""The machine under the selftest: GPU, driver, kernels, attention, TF32, exchange between processes, threads, a compiler."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from reals.machine import compiler as compilers
from reals.machine import cuda
from reals.machine.cores import cores
from reals.method import precision
from reals.planning.selftest.agreement import distance
from reals.planning.selftest.outcome import Fault, Skipped

GB = 1e9
FREE_LEAST = 2 * GB  # the selftest itself, with a context and cuBLAS's workspaces, needs less
HEAD_WIDTHS = (64, 72)  # of B and L, and of XL
TOKENS = 256  # of a 32x32 latent in patches of 2
SIDE = 512  # of the product that shows whether TF32 is on
TF32_ERROR = 1e-5  # between float32's relative error in such a product (some 1e-7) and TF32's (some 3e-4)


def gpu(device: torch.device) -> str:
    """Name, memory, compute capability and MIG; Fault where PyTorch has no kernels for it, or somebody else holds its memory."""
    if device.type != "cuda":
        loaded = cuda.driver()
        if loaded is not None:
            raise Fault(cuda.driver_fault(loaded, torch.version.cuda) or f"driver {loaded} is loaded, but PyTorch sees no GPU")
        raise Skipped(f"none here; the rest runs on the CPU with PyTorch {torch.__version__}")
    properties, (free, total) = torch.cuda.get_device_properties(device), torch.cuda.mem_get_info(device)
    capability, built = (properties.major, properties.minor), torch.cuda.get_arch_list()
    if not runs_on(capability, built):
        raise Fault(f"{properties.name} has compute capability {capability[0]}.{capability[1]}, this PyTorch's kernels are for "
                    f"{', '.join(built)}; install wheels that have it")  # fmt: skip
    if free < FREE_LEAST:
        raise Fault(f"{properties.name}: {free / GB:.1f} of {total / GB:.1f} GB free; nvidia-smi shows who holds the rest")
    return (f"{torch.cuda.device_count()} x {properties.name}, {free / GB:.1f} of {total / GB:.1f} GB free, compute capability "
            f"{capability[0]}.{capability[1]}, {'a MIG slice' if 'MIG' in properties.name else 'a whole GPU'}")  # fmt: skip


def runs_on(capability: tuple[int, int], built: list[str]) -> bool:
    """Whether kernels built for architectures such as sm_90 and compute_90 run on a device: those of its own generation and no
    later, or intermediate code of any earlier one."""
    for name in built:
        kind, _, digits = name.partition("_")
        number = digits.rstrip("af")  # of one chip, or of a family
        major, minor = int(number[:-1]), int(number[-1])
        if (kind == "compute" and (major, minor) <= capability) or (major == capability[0] and minor <= capability[1]):
            return True
    return False


def driver(device: torch.device) -> str:
    """The driver against the CUDA that PyTorch brings."""
    loaded = cuda.driver()
    if loaded is None:
        if device.type == "cuda":
            return f"its version cannot be read, but CUDA {torch.version.cuda} runs on it"
        raise Skipped("no NVIDIA driver is loaded")
    fault = cuda.driver_fault(loaded, torch.version.cuda)
    if fault and device.type != "cuda":
        raise Fault(fault)
    return f"{loaded}, PyTorch {torch.__version__} brings CUDA {torch.version.cuda}" + (
        ", newer than the driver's own (a compatibility package)" if fault else ""
    )


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Whether operations must make the same bits each time, or refuse, inside the block."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


class _Called(TorchDispatchMode):
    """The names of the operations that are called inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def attention_kernel(device: torch.device, dtype: torch.dtype, width: int) -> str:
    """The kernel that attention takes in training at the papers' head width: flash, efficient, cudnn, or math."""
    q, k, v = (torch.zeros(2, 4, TOKENS, width, device=device, dtype=dtype, requires_grad=True) for _ in range(3))
    with _Called() as called:
        F.scaled_dot_product_attention(q, k, v).sum().backward()
    for name in called.names:
        for kernel in ("flash", "efficient", "cudnn"):
            if f"_scaled_dot_product_{kernel}_attention" in name:
                return kernel
    return "math"


def attention(device: torch.device) -> str:
    """The attention kernels in use, training and deterministic as `engine` has it."""
    with deterministic(True):
        found = {
            name: {width: attention_kernel(device, dtype, width) for width in HEAD_WIDTHS}
            for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32))
        }
    said = ", ".join(f"{name} {'/'.join(dict.fromkeys(kernels.values()))}" for name, kernels in found.items())
    slow = [f"{name} at head width {width}" for name, kernels in found.items() for width, k in kernels.items() if k == "math"]
    if slow and device.type == "cuda":
        raise Fault(f"{said}: {', '.join(slow)} has no fused kernel, which costs memory and time")
    return said


def product_error(a: Tensor, b: Tensor) -> float:
    """The relative error of a matrix product in the precision that is set."""
    return distance((a @ b).double().cpu(), a.double().cpu() @ b.double().cpu())


def tf32(device: torch.device) -> str:
    """That float32 products are whole in fp32 and round to TF32 in tf32 alone, by what is set and by their error."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(SIDE, SIDE, generator=generator).to(device) for _ in range(2))
    has = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    said = []
    for name in precision.PRECISIONS:
        with precision.running(device, name):
            allowed = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
            with torch.autocast(device.type, enabled=False):
                error = product_error(a, b)
        if allowed != (name == "tf32",) * 2:
            raise Fault(f"{name} sets TF32 of products and convolutions to {allowed}")
        if (error > TF32_ERROR) != (has and name == "tf32"):
            raise Fault(f"{name}: a float32 product is {error:.1e} off, so TF32 is {'on' if error > TF32_ERROR else 'off'}")
        if name in ("fp32", "tf32"):
            said.append(f"{'on' if allowed[0] else 'off'} in {name} (a product is {error:.0e} off)")
    return ", ".join(said) + ("" if has else "; this device has none")


def exchange(device: torch.device) -> str:
    """What processes of one training talk by."""
    if not dist.is_available() or not dist.is_gloo_available():
        raise Fault("this PyTorch has no gloo, by which processes agree")
    if device.type != "cuda":
        return "gloo"
    if not dist.is_nccl_available():
        raise Fault("this PyTorch has no NCCL, by which GPUs exchange gradients")
    return f"gloo, NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}"


def threads() -> str:
    """CPU cores that this process may use, and threads of a job by default."""
    return f"{cores()} of {os.cpu_count()} cores are this process's; PyTorch takes {torch.get_num_threads()}"


def compiler(device: torch.device) -> str:
    """What `engine.compile` needs. On a CPU nobody asks for it."""
    gpu = device.type == "cuda"
    if lacks := compilers.missing(gpu):
        said = f"{', '.join(lacks)} missing"
        raise Fault(said) if gpu else Skipped(f"{said}; only engine.compile needs it")
    return f"{compilers.found(gpu)}" + (", Triton, Python.h" if gpu else "")
