"""A CPU job keeps the memory it frees, for its next tensors."""

import ctypes

import torch

# malloc.h of the GNU C library
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER, NONE = -1, 0


def keep_freed() -> None:
    """From now on this process gives no freed memory back to the kernel. Nothing on a GPU, or without the GNU C library.

    PyTorch's CPU allocator is malloc, whose default returns large blocks when they are freed; the next tensor then comes in
    page by page, each zeroed by the kernel: a quarter of the CPU's time in a forward pass over a large batch.
    """
    if torch.cuda.is_available():  # tensors have a cache of their own there, and the host's buffers are few and huge
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, NONE)
        mallopt(M_TRIM_THRESHOLD, NEVER)
