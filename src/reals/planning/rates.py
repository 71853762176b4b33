"""How fast a device works: rates that `reals measure` stored, else a stated table."""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from reals.experiment.reading import ConfigError, read_yaml
from reals.experiment.scale import Scale
from reals.machine.dispatch import VISIBLE

MEASURED = Path("results/measured")
KINDS = ("transformer", "sampling", "autoencoder", "encoding")
"""Kinds of work: training a transformer, running one, training an autoencoder, running a convolutional network."""
TEACHER = "sampling teacher"  # another network at another batch: it says nothing of a transformer
NVIDIA_SECONDS = 10.0


class Kind(NamedTuple):
    """Work of one kind (`KINDS`, with a transformer's size or as ``TEACHER``) in the precision of its matrix products."""

    work: str
    precision: str

    def __str__(self) -> str:
        return f"{self.work} {self.precision}"


@dataclass(frozen=True)
class Rates:
    """FLOP/s of one device by precision and kind of work, e.g. "sampling", or "sampling XL" where sizes were told apart.

    ``source`` says where they are from; ``peaks`` are those of matrix products, by precision.
    """

    device: str
    source: str
    peaks: Mapping[str, float]
    by_precision: Mapping[str, Mapping[str, float]]
    threads: int | None = None  # that count as one device; None: the device is a GPU
    memory: float | None = None  # GB of a GPU; None: not known

    @property
    def unit(self) -> str:
        return "GPU" if self.threads is None else "CPU"

    def rate(self, kind: Kind) -> float:
        """FLOP/s; one size stands in for another, and one precision for another by the ratio of their peaks, where it must.

        ConfigError where there is none.
        """
        found, stated_in = self._found(kind)
        own = self._units(kind.precision)
        return found if stated_in == own else found * self.peaks[own] / self.peaks[stated_in]

    def stand_in(self, kind: Kind) -> str | None:
        """The precision whose rate this one is derived from; None where it has its own."""
        stated_in = self._found(kind)[1]
        return None if stated_in == self._units(kind.precision) else stated_in

    def _units(self, precision: str) -> str:
        """The precision whose rates are those of ``precision``: CPUs have no TF32, and fp16 runs on the units of bf16."""
        alike = {"tf32": "fp32"} if self.threads is not None else {"fp16": "bf16"}
        return precision if precision in self.by_precision else alike.get(precision, precision)

    def _found(self, kind: Kind) -> tuple[float, str]:
        """(a rate of this work, its precision): the kind's own, else the first other whose peak can be compared."""
        own = self._units(kind.precision)
        for precision in dict.fromkeys((own, *self.by_precision)):
            found = _of_work(self.by_precision.get(precision, {}), kind.work)
            if found is not None and (precision == own or {precision, own} <= self.peaks.keys()):
                return found, precision
        raise ConfigError(f"rates of {self.device} ({self.source}): none for '{kind}'; run `reals measure` again")

    def seconds(self, work: Mapping[Kind, int]) -> float:
        """Device-seconds of FLOPs by kind of work."""
        return sum(flops / self.rate(kind) for kind, flops in work.items())


def _of_work(rates: Mapping[str, float], work: str) -> float | None:
    if work in rates:
        return rates[work]
    others = [rate for name, rate in rates.items() if name.split()[0] == work.split()[0] and name != TEACHER]
    return others[-1] if others else None


def threads_of(scale: Scale) -> int:
    """The threads that count as one device on a CPU: those the scale gives a training job, at most what there is."""
    stated = scale.resources_of("transformer")
    return min(stated.threads, os.cpu_count() or 1)


def on_gpus(scale: Scale) -> bool:
    """Whether any job asks for a GPU; where none does, jobs see none."""
    return any(stated.gpu for stated in scale.resources.values())


@cache
def this_device(threads: int, gpu: bool = True) -> str:
    """The name of this machine's first GPU, as its driver gives it, or of its CPU with ``threads`` threads where this process sees none, or without ``gpu``."""
    if gpu and os.environ.get(VISIBLE) != "" and shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        try:
            printed = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SECONDS, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            printed = ""
        if printed.strip():
            return printed.splitlines()[0].strip()
    info = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else []
    return f"{models[0] if models else 'CPU'}, {threads} thread{'s' * (threads > 1)}"


def slug(device: str) -> str:
    """A device's name as a file name: "Intel(R) Xeon(R), 1 thread" is "intel-r-xeon-r-1-thread"."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def measured_path(device: str) -> Path:
    return MEASURED / f"{slug(device)}.json"


def peak(device: str, precision: str) -> float | None:
    """FLOP/s of matrix products as `reals measure` found them on this device; None where it has not run, or cannot be read: no
    training ends for want of it."""
    path = measured_path(device)
    with suppress(ConfigError):
        found = _measured(path)["peak_tflops"].get(precision) if path.exists() else None
        return found and found * 1e12
    return None


def _measured(path: Path) -> dict[str, Any]:
    """What `reals measure` stored in a file. ConfigError where that is something else."""
    with suppress(ValueError):
        stored = json.loads(path.read_bytes())
        if isinstance(stored, dict) and {"device", "threads", "peak_tflops", "scales"} <= stored.keys():
            return stored
    raise ConfigError(f"{path}: not what `reals measure` writes; delete it and run that again")


def load(name: str, scale: str, sheet: Path, overrides: Sequence[str] = ()) -> Rates:
    """The rates of a device: a measurement of that name (or its beginning) at this scale, else the stated table.

    ``sheet`` is rates.yaml. ConfigError names what is known where ``name`` is not, and the command that measures it at the experiment
    of these ``overrides``.
    """
    wanted, table = slug(name), read_yaml(sheet)
    found = sorted(MEASURED.glob("*.json"))
    for path in sorted((p for p in found if wanted in p.stem), key=lambda p: p.stem != wanted):
        stored = _measured(path)
        if measured := stored["scales"].get(scale, {}).get("tflops"):
            return Rates(
                stored["device"], f"measured {stored['scales'][scale]['date']}, {path}", _tera(stored["peak_tflops"]),
                {precision: _tera(rates) for precision, rates in measured.items()}, stored["threads"],
                _memory(stored["device"], table),
            )  # fmt: skip
    if name not in table:
        known = [*table, *(p.stem for p in found)]
        raise ConfigError(
            f"{name}: no rates of this device at scale {scale}; "
            f"run `reals measure --config {shlex.join(overrides) or f'scale={scale}'}` on it, or name one with --gpu: {', '.join(known)}"
        )
    row = dict(table[name])
    device, memory = row.pop("device", name), row.pop("memory", None)
    for precision, values in row.items():
        if missing := [kind for kind in (*KINDS, "peak") if not isinstance(values.get(kind), int | float)]:
            raise ConfigError(f"{sheet}: {name}: {precision}: needs a number of TFLOP/s for {', '.join(missing)}")
    return Rates(
        device, f"stated in {sheet}", _tera({precision: values["peak"] for precision, values in row.items()}),
        {precision: _tera({kind: values[kind] for kind in KINDS}) for precision, values in row.items()}, memory=memory,
    )  # fmt: skip


def _memory(device: str, table: Mapping[str, Mapping[str, Any]]) -> float | None:
    """GB of a GPU by its driver's name: where that says it ("NVIDIA A100-SXM4-80GB"), or of the stated device that it names."""
    if said := re.search(r"(\d+) ?GB", device):
        return float(said[1])
    return next((row["memory"] for name, row in table.items() if name in slug(device) and "memory" in row), None)


def _tera(values: Mapping[str, float]) -> dict[str, float]:
    return {key: value * 1e12 for key, value in values.items()}
