"""How fast a device is: seconds of steps, the peak of matrix products, and what was found of one kind of work."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil

import torch

from reals.method.precision import allow_tf32
from reals.training.processes import reserve_cublas_workspace

SQUARES = (1024, 2048, 4096)  # sides of the matrices behind the peak
STEP_SECONDS = 2.0  # on a CPU a step should take no longer
BLOCKS = 5  # of steps without a wait for the device between them, whose median counts
MOST_STEPS = 100

Step = Callable[[], object]


def plain(count: float) -> str:
    """A count for a reader: 1,985; 12.3."""
    return f"{count:,.0f}" if count >= 100 else f"{count:.3g}"


@dataclass(frozen=True)
class Feeding:
    """A step that reads its own data: its ``seconds``, the share of them spent ``waiting`` for the batch, and what the loader
    alone makes, in ``images`` a second on ``cores`` cores."""

    seconds: float
    waiting: float
    images: float
    cores: int


@dataclass(frozen=True)
class Timing:
    """Work of one kind (`rates.KINDS`, with a transformer's size) in one precision: ``seconds`` of a step of ``batch`` images whose
    data are ready, ``flops`` of one image in it as the plan counts them."""

    kind: str
    precision: str
    batch: int
    flops: float
    seconds: float
    feeding: Feeding | None = None  # None: reads nothing
    noise: float | None = None  # seconds that a step's noise takes alone; it is drawn while the step before runs

    @property
    def rate(self) -> float:
        """FLOP/s."""
        return self.flops * self.batch / self.seconds

    @property
    def images(self) -> float:
        """A second."""
        return self.batch / self.seconds

    def record(self) -> dict[str, float]:
        """What is stored beside its rate."""
        known = {"seconds": self.seconds, "images_per_second": self.images}
        if self.feeding is not None:
            fed = self.feeding
            known |= {
                "fed_seconds": fed.seconds,
                "waiting": fed.waiting,
                "loader_images_per_second": fed.images,
                "cores": fed.cores,
            }
        return known if self.noise is None else {**known, "noise_seconds": self.noise}

    @property
    def warning(self) -> str | None:
        """One line where the loader cannot feed the device."""
        fed = self.feeding
        if fed is None or fed.images >= self.images:
            return None
        return (f"{self.kind}: {fed.cores} core{'s' * (fed.cores > 1)} feed {plain(fed.images)} images/s, the device takes {plain(self.images)}: "
                f"{ceil(fed.cores * self.images / fed.images)} cores a device would do (resources.<stage>.threads)")  # fmt: skip


class Bench:
    """Times steps on one device. A CPU with one thread is timed by its own clock, which other processes do not disturb."""

    def __init__(self, device: torch.device, threads: int | None, seconds: float):
        self.device, self.seconds = device, seconds
        if device.type == "cuda":  # the first product is not a deterministic training's
            reserve_cublas_workspace()
        self.clock = time.process_time if threads == 1 else time.perf_counter
        self.clock_name = "CPU time of the process" if threads == 1 else "wall-clock"

    def wait(self) -> None:
        """Until the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def once(self, step: Step, times: int = 1) -> float:
        """Seconds of a step, made so many times."""
        began = self.clock()
        for _ in range(times):
            step()
        self.wait()
        return (self.clock() - began) / times

    def median(self, step: Step, compiled: bool = False) -> float:
        """Seconds of a step: the median over about ``seconds``. A first one counts only where it takes longer, and nothing is
        compiled or loaded onto a GPU in it."""
        first = self.once(step)
        fresh = compiled or self.device.type == "cuda"
        if fresh:
            first = self.once(step)
        if first > self.seconds:
            return first
        block = max(1, round(self.seconds / BLOCKS / max(first, 1e-6))) if self.device.type == "cuda" else 1
        number = min(MOST_STEPS, max(2, round(self.seconds / max(first * block, 1e-6))))
        times = sorted(self.once(step, block) for _ in range(number))
        return times[len(times) // 2]


def peak(bench: Bench, precision: str) -> float:
    """FLOP/s of the best of some square matrix products."""
    allow_tf32(precision == "tf32")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16 if precision == "fp16" else torch.float32
    best = 0.0
    for side in SQUARES:
        a, b = (torch.randn(side, side, device=bench.device, dtype=dtype) for _ in range(2))
        seconds = min(bench.once(partial(torch.matmul, a, b)) for _ in range(4))
        best = max(best, 2 * side**3 / max(seconds, 1e-9))
        if seconds > STEP_SECONDS:  # a CPU without a unit for bf16, where the largest would take minutes
            break
    return best
