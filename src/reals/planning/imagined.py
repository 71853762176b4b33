"""Processes and networks that are not there: a training as it would be on GPUs, for counting what memory it takes."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import TypeVar
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from reals.method.models import discriminator
from reals.training.processes import Processes, Share, shares

Network = TypeVar("Network", bound=nn.Module)


class ImaginedProcesses(Processes):
    """The last of ``count`` processes with a GPU each, which has the most rows; the others are not there.

    What they exchange, and the loss scale of fp16, which waits for numbers, is left out; the memory for it is not.
    """

    def __init__(self, precision: str, accumulate: int, count: int):
        self.rank, self.count, self.device = count - 1, count, torch.device("cpu")
        self.precision, self.accumulate, self.compiled = precision, accumulate, False
        self.scaler = self._control = self._vote = self._heart = None
        self.exchanging = True

    def shares(self, n: int) -> list[Share]:
        """Of more than three shares the first, the second and the last: those between leave what the second leaves."""
        mine = shares(n, self.rank, self.count, self.accumulate)
        return mine if len(mine) < 4 else [mine[0], mine[1], mine[-1]]

    def rows(self, n: int) -> slice:
        mine = shares(n, self.rank, self.count, self.accumulate)
        return slice(mine[0].rows.start, mine[-1].rows.stop)

    def prepare(self, module: nn.Module) -> nn.Module:
        """The module with the buckets of DistributedDataParallel: they stay, and an exchanged gradient is a view of one."""
        if self.count > 1:
            for parameter in module.parameters():
                if parameter.requires_grad:
                    parameter.register_post_accumulate_grad_hook(partial(self._exchange, torch.empty_like(parameter)))
        return module

    def _exchange(self, bucket: Tensor, parameter: Tensor) -> None:
        if self.exchanging:
            parameter.grad = bucket

    def exchange(self, module: nn.Module, share: Share) -> AbstractContextManager:
        self.exchanging = share.last
        return nullcontext()

    def average(self, gradients: list[Tensor]) -> None:
        if self.count > 1:
            torch.cat([g.flatten() for g in gradients])


def unwritten(build: Callable[[], Network], initialise: Callable[[Network], object] | None = None) -> Network:
    """The network with FakeTensors as its weights, which nobody draws; built on torch's meta device, since that is faster."""
    with unset_fake_temporarily(), torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LPIPS loads its linear layers into nothing
        network = build()
    for module in network.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.empty(value.shape), requires_grad=value.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))
    return network


@contextmanager
def shared_batch_norm() -> Iterator[None]:
    """The discriminator normalises as in several processes."""
    alone = SimpleNamespace(is_initialized=lambda: True, all_reduce=lambda tensor: None)
    with patch.object(discriminator, "dist", alone), patch("torch.distributed.nn.functional.all_reduce", torch.clone):
        yield
