"""Out of memory in one line: what did not fit, the setting that decides it, and the value that would fit."""

import argparse
import errno
import time
from collections.abc import Iterable
from typing import Any

from reals.cli.experiment import registry_of
from reals.experiment.artefact import Artefact
from reals.experiment.registry import Registry
from reals.experiment.stage_table import OF_COMMAND
from reals.machine.world import world

PHRASES = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "alloc_failed",
    "allocation_failed",
)
OF_HOST = PHRASES[1:4]
FIRST_SPEAKS = 60.0  # seconds that the other processes of a run leave the first to say it for all; torchrun then ends them
IN_SCALE = "in the scale file"


def ran_out(error: BaseException) -> bool:
    """Whether memory of a GPU or of the host was not to be had; torch has several errors for it, some of them plain RuntimeErrors."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _says(error, PHRASES))


def _says(error: BaseException, phrases: Iterable[str]) -> bool:
    return any(words in str(error).lower() for words in phrases)


def line(error: BaseException, options: argparse.Namespace) -> str:
    """What to say of it. The first process speaks for a run of several; the others wait, in case it was not among those that failed."""
    if world().rank != 0:
        time.sleep(FIRST_SPEAKS)
    gpu = _of_gpu(error)
    where = f"out of memory on the GPU{_size()}" if gpu else "out of memory on this machine's CPU"
    if getattr(options, "command", None) != "stage":
        batch = getattr(options, "batch", None) or 1
        smaller = f"--batch is {batch}; set it to {batch // 2}, which changes nothing but speed, or " if batch > 1 else ""
        return f"{where}: {smaller}close what else uses this memory"
    try:
        registry = registry_of(options)
        advice = _advice(registry, registry.find(OF_COMMAND[options.stage].kind, options.id), gpu)
    except Exception:  # whatever is wrong with the advice, the failure itself is still to be said
        advice = "`reals plan` says what fits"
    if not gpu:
        advice += f"; or give the job more memory (resources.{options.stage}.mem_mb)"
    return f"{where}: {advice}"


def _of_gpu(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and not _says(error, OF_HOST)


def _size() -> str:
    """The memory of this process's GPU, where torch can tell."""
    gb = _card_gb()
    return f" ({gb:.0f} GB)" if gb else ""


def _card_gb() -> float | None:
    import torch

    return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / 1e9 if torch.cuda.is_available() else None


def _advice(registry: Registry, artefact: Artefact[Any], gpu: bool) -> str:
    """For each stage the setting that decides how much it holds at once."""
    scale, kind = registry.experiment.scale, artefact.kind
    if kind in ("run", "autoencoder") and hasattr(artefact.spec, "batch"):
        return _training(registry, artefact, _card_gb() if gpu else None)
    if kind == "samples":
        now = scale.sampling.batch
        return f"sampling.batch is {now}; set it to {_drawn(registry, artefact, _card_gb() if gpu else None)} {IN_SCALE}"
    if kind == "downstream" and scale.downstream is not None:
        return f"downstream.batch is {scale.downstream.batch}; a smaller one fits, and is another result with another id"
    if kind in ("teacher", "extractor") and hasattr(artefact.spec, "batch"):
        return f"its batch is {artefact.spec.batch}; a smaller one {IN_SCALE} fits, and is another {kind} with another id"
    return "it works in small fixed batches; close what else uses this memory, or take a larger card"


def _training(registry: Registry, artefact: Artefact[Any], card_gb: float | None) -> str:
    from reals.planning.memory import Memory, Setting  # here: every command imports this module, and hardly one runs out

    processes, batch = world().size, artefact.spec.batch
    planned = Memory(registry)
    now = planned.setting
    held = -(-batch // processes // now.accumulate)
    found = planned.fitting(artefact, processes, card_gb) if card_gb else None
    several = f" of {processes}" if processes > 1 else ""
    state = f"batch {batch}, {held} samples at once in each process{several} (engine.accumulate {now.accumulate})"
    if card_gb and found is None:
        return f"{state}; no setting fits, take more GPUs or larger ones"
    if found is None or found == now:  # the count says that it fits: others use the card, or it is a CPU
        rows = planned.rows(artefact, processes)
        found = Setting(
            min(2 * now.accumulate, rows), now.checkpoint_blocks or (now.accumulate >= rows and artefact.kind == "run")
        )
    changed = [f"engine.accumulate to {found.accumulate}"] * (found.accumulate != now.accumulate)
    changed += ["engine.checkpoint_blocks to true"] * (found.checkpoint_blocks and not now.checkpoint_blocks)
    if not changed:
        return f"{state}; no setting lowers it further, take a larger card or close what else uses it"
    return f"{state}; set {' and '.join(changed)} {IN_SCALE}, and it goes on from the last saved state"


def _drawn(registry: Registry, samples: Artefact[Any], card_gb: float | None) -> int:
    """The largest half, quarter, ... of the scale's batch that fits; the half where it is not known what there is."""
    from reals.planning.memory import Memory

    batch = max(1, registry.experiment.scale.sampling.batch // 2)
    planned = Memory(registry)
    while card_gb and batch > 1 and planned.sampling(samples, batch) > card_gb:
        batch //= 2
    return batch
