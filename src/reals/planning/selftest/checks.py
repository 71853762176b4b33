"""Everything the selftest looks at, from cheap to dear, in the order in which it is said."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from functools import partial
from io import StringIO
from pathlib import Path

import torch

from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.experiment.sampler_table import SAMPLERS
from reals.planning.selftest import device as machine
from reals.planning.selftest.drawing import Drawing
from reals.planning.selftest.outcome import Check, Result, results
from reals.planning.selftest.runs import Runs
from reals.planning.selftest.steps import ALLOWED, Steps
from reals.planning.selftest.tiny import Tiny
from reals.training.processes import reserve_cublas_workspace

SCALE = "smoke"  # whose networks are tried
OTHER_NUMBERS = (
    "try the newest driver and PyTorch's locked version (make .venv/.ready); if it stays, train elsewhere and report it"
)


def selftest(folder: Path | None = None, quick: bool = False, sheets: Path = Path("config")) -> Iterator[Result]:
    """The result of each check as it is done; without the dear ones where ``quick``. Leaves PyTorch's settings as they were.

    Call it before anything else computes on a GPU: cuBLAS reads what makes it deterministic once. ``folder`` is where
    trainings are kept, in a new folder below it; else they go again. ConfigError where the scale `SCALE` cannot be read from
    ``sheets``.
    """
    networks = tiny(sheets)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with _trainings(folder) as trainings, settings_kept():
        for check in checks(networks, device, trainings, sheets):
            if not (quick and check.dear):
                with redirect_stderr(StringIO()):  # trainings tell their progress
                    (result,) = results([check])
                yield result


@contextmanager
def _trainings(folder: Path | None) -> Iterator[Path]:
    """A new folder, below ``folder`` and kept, or gone afterwards."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="reals-selftest-") as temporary:
            yield Path(temporary)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        yield Path(tempfile.mkdtemp(prefix="selftest-", dir=folder))


def tiny(sheets: Path) -> Tiny:
    """The networks that are tried."""
    return Tiny(Registry(load(SCALE, folder=sheets)))


def checks(tiny: Tiny, device: torch.device, folder: Path, sheets: Path) -> list[Check]:
    """All checks of one device."""
    steps, drawing, runs = Steps(tiny, device), Drawing(tiny, device), Runs(tiny, device, folder, sheets)
    install = "install PyTorch for this machine (README), or update its driver"
    return [
        Check("GPU", partial(machine.gpu, device), install),
        Check("driver", partial(machine.driver, device), install),
        Check("CPU", machine.threads, "ask for more cores"),
        Check("exchange", partial(machine.exchange, device), "install PyTorch's official wheels"),
        Check("compiler", partial(machine.compiler, device), "load a compiler's module, or set engine.compile: false in the scale file"),
        Check("attention", partial(machine.attention, device), "install PyTorch's official wheels; on a GPU before Ampere take fp16"),
        Check("TF32", partial(machine.tf32, device), "unset TORCH_ALLOW_TF32_CUBLAS_OVERRIDE and NVIDIA_TF32_OVERRIDE"),
        *(Check(f"{stage}, two steps", partial(steps.against_cpu, stage), OTHER_NUMBERS) for stage in ALLOWED),
        *(Check(f"{stage}, twice", partial(steps.twice, stage), OTHER_NUMBERS) for stage in ALLOWED),
        *(Check(f"sampler {name}", partial(drawing.sampler, name), OTHER_NUMBERS) for name in SAMPLERS),
        Check("encoder", drawing.encoder, OTHER_NUMBERS),
        Check("decoder", drawing.decoder, OTHER_NUMBERS),
        Check("features", drawing.extractors, OTHER_NUMBERS),
        Check("metrics", drawing.metrics, OTHER_NUMBERS),
        Check("resume", runs.resumed, "do not train here before it is mended: a killed run would not go on as it was", dear=True),
        Check("processes", runs.processes, "train on one GPU; NCCL_DEBUG=INFO and NCCL_SOCKET_IFNAME help to find why", dear=True),
        Check("torch.compile", runs.compiled, "set engine.compile: false in the scale file", dear=True),
    ]  # fmt: skip


@contextmanager
def settings_kept() -> Iterator[None]:
    """What trainings set for the whole process is afterwards as it was; one CPU thread inside, as jobs have by default."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    reserve_cublas_workspace()  # the first product is not a training's
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
