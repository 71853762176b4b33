"""One process or many that train together: shares of a batch, one gradient, one decision, and an end for all when one dies."""

import os
import sys
import threading
from collections.abc import Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from reals.machine import compiler
from reals.machine.signals import EXIT_PEER, GO_ON
from reals.machine.world import LAUNCHER, world
from reals.method import precision as precisions

BEAT_SECONDS = 5.0
SILENT_SECONDS = 45.0  # without a sign of life, and a process counts as dead: all must end within a minute
STUCK = timedelta(minutes=10)  # longest wait for the others in one exchange: the first step may compile for minutes
ORPHAN_SECONDS = 1.0  # between looks for the launcher, until all processes have met
SMALLEST_SCALE = 2.0**-10  # fp16: a loss scale below this means that every step overflows

Key = TypeVar("Key", bound=Hashable)


class Agreed(Exception):
    """Raised by all processes at the same step; one of them says so."""

    agreed = True


class PeerLost(RuntimeError):
    """Another process of this run ended or fell silent; nothing that was saved is lost."""


@dataclass(frozen=True)
class Share:
    """Consecutive rows of a global batch that one process computes at once.

    ``weight`` times the mean over the rows, summed over a process's shares and averaged over the processes (as
    DistributedDataParallel does with gradients), is the mean over the whole batch. ``last`` marks the share after which
    gradients are exchanged.
    """

    rows: slice
    weight: float
    last: bool


def shares(n: int, rank: int, count: int, accumulate: int) -> list[Share]:
    """Rank's part of a batch of ``n``: rows differ by at most one between processes and between shares.

    Raises ValueError where there are fewer rows than processes.
    """
    if n < count:
        raise ValueError(f"batch {n} on {count} processes: each needs at least one sample; use fewer processes")
    first, end = n * rank // count, n * (rank + 1) // count
    parts = min(accumulate, end - first)
    edges = [first + (end - first) * k // parts for k in range(parts + 1)]
    return [Share(slice(a, b), (b - a) / n * count, b == end) for a, b in zip(edges, edges[1:], strict=False)]


def add_weighted(sums: dict[str, Tensor], terms: dict[str, Tensor], weight: float) -> None:
    """sums[k] += weight * terms[k]: log terms of a batch that is computed in shares."""
    for name, value in terms.items():
        sums[name] = sums[name] + weight * value if name in sums else weight * value


def reserve_cublas_workspace() -> None:
    """Gives cuBLAS the workspace that it needs to be deterministic. It reads the setting once, at its first product in a process."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def use_deterministic_kernels() -> None:
    """From now on this process's CUDA kernels give the same bits each time, and an operation that has none such raises RuntimeError.

    CPU kernels do anyway. To be called before the first matrix product (`reserve_cublas_workspace`).
    """
    reserve_cublas_workspace()
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # torch adds it at run time; a slow debugging aid


class Processes:
    """The processes of this training: `torchrun` makes several (on one or more nodes) and numbers them, else there is one.

    The gradient is that of the mean over the global batch, whatever the number of processes and of accumulation steps.

    ``precision`` is one of `method.precision.PRECISIONS`; weights and optimizer are float32, and fp16 has a loss scale.
    ``deterministic``: `use_deterministic_kernels`. ``device`` is the process's GPU where there is one, unless it is given.
    """

    def __init__(
        self, precision: str = "fp32", accumulate: int = 1, compiled: bool = False, deterministic: bool = False,
        device: torch.device | None = None,
    ):  # fmt: skip
        precisions.check(precision)
        cuda = torch.cuda.is_available() if device is None else device.type == "cuda"
        if cuda and deterministic:
            use_deterministic_kernels()
        place = world()
        self.rank, self.count = place.rank, place.size
        self.device = device or torch.device("cuda" if cuda else "cpu")
        if compiled:
            compiler.require(cuda, "engine.compile")
        if self.count > 1:
            if cuda:
                self.device = torch.device("cuda", place.local_rank % torch.cuda.device_count())
                torch.cuda.set_device(self.device)
            with _ending_as_orphan():
                dist.init_process_group("nccl" if cuda else "gloo", timeout=STUCK)
        self.precision, self.accumulate, self.compiled = precision, accumulate, compiled
        precisions.allow_tf32(precision == "tf32")
        self.scaler = torch.amp.GradScaler(self.device.type) if precision == "fp16" else None
        self._control = _all_by_cpu() if self.count > 1 else None
        self._vote: tuple[Tensor, dist.Work | None] | None = None
        self._heart = Heart(self.rank, self.count) if self.count > 1 else None

    @property
    def main(self) -> bool:
        """Whether this process writes the files and prints."""
        return self.rank == 0

    def shares(self, n: int) -> list[Share]:
        """This process's parts of a global batch of ``n`` samples."""
        return shares(n, self.rank, self.count, self.accumulate)

    def rows(self, n: int) -> slice:
        """All rows of this process in a global batch of ``n``."""
        mine = self.shares(n)
        return slice(mine[0].rows.start, mine[-1].rows.stop)

    def prepare(self, module: nn.Module) -> nn.Module:
        """The module to call in training; parameters and state dict stay those of ``module``, now on the device.

        Every trained parameter must take part in every call.
        """
        module = module.to(self.device)
        if self.compiled:
            module.compile()
        if self.count == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices, gradient_as_bucket_view=True)

    def autocast(self) -> AbstractContextManager:
        """Around the networks' calls, not around the losses."""
        return precisions.autocast(self.device, self.precision)

    def exchange(self, module: nn.Module, share: Share) -> AbstractContextManager:
        """Around call and `backward` of a prepared module: gradients are exchanged only with the last share."""
        return module.no_sync() if isinstance(module, DistributedDataParallel) and not share.last else nullcontext()

    def backward(self, loss: Tensor, share: Share) -> None:
        """Adds the gradient of ``loss``, a mean over the share's rows."""
        loss = loss * share.weight
        (self.scaler.scale(loss) if self.scaler else loss).backward()

    def step(self, optimizer: torch.optim.Optimizer, clip: float | None = None) -> Tensor:
        """One optimizer step and a cleared gradient; the norm of the gradient before clipping to ``clip``.

        In fp16 a step whose gradient overflowed is left out (its norm is not finite) and the loss scale lowered.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if self.scaler:
            self.scaler.unscale_(optimizer)
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if clip is not None:
            nn.utils.clip_grads_with_norm_(parameters, clip, norm)
        if self.scaler:
            self.scaler.step(optimizer)
            self.scaler.update()
        else:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm.detach()

    def average(self, gradients: list[Tensor]) -> None:
        """Makes each tensor its mean over the processes, in place: for networks that are not called through `prepare`."""
        if self.count == 1:
            return
        whole = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(whole)
        whole /= self.count
        for gradient, mean in zip(gradients, whole.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def means(self, terms: Mapping[Key, Tensor | float]) -> dict[Key, float]:
        """Means over the processes, as numbers. Training waits for the device here and nowhere else."""
        values = torch.stack([torch.as_tensor(value, device=self.device).detach().double() for value in terms.values()])
        if self.count > 1:
            dist.all_reduce(values)
            values /= self.count
        return dict(zip(terms, values.tolist(), strict=True))

    def vote(self, *flags: bool) -> list[bool]:
        """Whether any process raised each flag, as of this call (one process) or the call before (several).

        All processes call it at the same step and get the same answer. It goes over the CPU while the step runs, so
        that a signal to one process stops all at the same step without waiting for a device.
        """
        if self._control is None:
            return list(flags)
        answer = [False] * len(flags)
        if self._vote is not None:
            tensor, work = self._vote
            if work is not None:
                work.wait()
            answer = [bool(flag) for flag in tensor]
        tensor = torch.tensor(flags, dtype=torch.int32)
        self._vote = tensor, dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._control, async_op=True)
        return answer

    def from_main(self, value: int) -> int:
        """The main process's number, in all."""
        if self._control is None:
            return value
        tensor = torch.tensor(value)
        dist.broadcast(tensor, 0, group=self._control)
        return int(tensor)

    def wait(self) -> None:
        """Until all processes are here."""
        if self._control is not None:
            dist.barrier(group=self._control)

    def state(self) -> dict:
        return self.scaler.state_dict() if self.scaler else {}

    def load(self, state: dict) -> None:
        if self.scaler and state:
            self.scaler.load_state_dict(state)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Ends together where all end in the same way; one that fails alone leaves the others to notice."""
        if self._control is None:
            return
        if kind is None or issubclass(kind, Agreed):
            if self._vote is not None and self._vote[1] is not None:
                self._vote[1].wait()
            self.wait()
            if self._heart is not None:
                self._heart.stop()
            dist.destroy_process_group()


@contextmanager
def _ending_as_orphan() -> Iterator[None]:
    """While the processes meet: ends this one where its launcher is gone. It would try to reach it for ever, and no `Heart` beats yet."""
    launcher, met = int(os.environ.get(LAUNCHER, os.getppid())), threading.Event()

    def watch() -> None:
        while not met.wait(ORPHAN_SECONDS):
            if os.getppid() != launcher:
                print(f"the launcher of this process is gone; {GO_ON}", file=sys.stderr, flush=True)
                os._exit(EXIT_PEER)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        met.set()


def _all_by_cpu() -> dist.ProcessGroup:
    """A group of all processes that talks over the CPU."""
    group = dist.new_group(backend="gloo", timeout=STUCK)
    assert isinstance(group, dist.ProcessGroup)  # and not the number that stands for a group without this process
    return group


class Heart:
    """A thread that tells the others that this process lives and ends it when another has been silent too long.

    A killed process breaks its connections and torchrun ends the rest, but a machine that loses power or network tells
    nobody, and a GPU waiting for it would wait on.
    """

    def __init__(self, rank: int, count: int):
        self.store = dist.distributed_c10d._get_default_store().clone()
        self.rank, self.watched = rank, (rank + 1) % count
        self.stopped = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def stop(self) -> None:
        self.stopped.set()

    def _beat(self) -> None:
        seen, silent = -1, 0.0
        while not self.stopped.wait(BEAT_SECONDS):
            try:
                self.store.add(f"reals/alive/{self.rank}", 1)
                beats = self.store.add(f"reals/alive/{self.watched}", 0)
                silent = 0.0 if beats != seen else silent + BEAT_SECONDS
                seen = beats
                if silent > SILENT_SECONDS:
                    self.store.add("reals/lost", 1)
                lost = self.store.add("reals/lost", 0) > 0
            except RuntimeError:
                lost = True
            if lost and not self.stopped.is_set():
                print(f"process {self.rank}: another process of this run is gone; {GO_ON}", file=sys.stderr, flush=True)
                os._exit(EXIT_PEER)  # the main thread may wait in a GPU exchange that never ends


def is_peer_loss(error: Exception) -> bool:
    """Whether an exchange failed because another process is gone, as opposed to a mistake of ours."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())
