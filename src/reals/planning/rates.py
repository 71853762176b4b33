"""How fast a device works: rates that `reals measure` stored, else a stated table."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from reals import files
from reals.experiment.reading import ConfigError, read_yaml
from reals.experiment.scale import Scale

MEASURED = Path("results/measured")
KINDS = ("transformer", "sampling", "autoencoder", "encoding")
"""Kinds of work: training a transformer, running one, training an autoencoder, running a convolutional network."""
TEACHER = "sampling teacher"  # another network at another batch: it says nothing of a transformer
NVIDIA_SECONDS = 10.0


@dataclass(frozen=True)
class Rates:
    """FLOP/s of one device by kind of work, e.g. "sampling", or "sampling XL" where sizes were told apart.

    ``source`` says where they are from; ``peak`` is that of matrix products (None: not known).
    """

    device: str
    precision: str
    source: str
    peak: float | None
    by_kind: dict[str, float]
    threads: int | None = None  # that count as one device; None: the device is a GPU

    @property
    def unit(self) -> str:
        return "GPU" if self.threads is None else "CPU"

    def rate(self, work: str) -> float:
        """FLOP/s of a kind of work; one size stands in for another that was not measured. ConfigError where there is none."""
        if work in self.by_kind:
            return self.by_kind[work]
        kind = work.split()[0]
        others = [rate for name, rate in self.by_kind.items() if name.split()[0] == kind and name != TEACHER]
        if not others:
            raise ConfigError(f"rates of {self.device} ({self.source}): none for '{work}'; run `reals measure` again")
        return others[-1]

    def seconds(self, work: dict[str, int]) -> float:
        """Device-seconds of FLOPs by kind of work."""
        return sum(flops / self.rate(kind) for kind, flops in work.items())


def threads_of(scale: Scale) -> int:
    """The threads that count as one device on a CPU: those the scale gives a training job, at most what there is."""
    stated = scale.resources_of("transformer")
    return min(stated.threads, os.cpu_count() or 1)


@cache
def this_device(threads: int) -> str:
    """The name of this machine's first GPU, as its driver gives it, or of its CPU with ``threads`` threads."""
    if shutil.which("nvidia-smi"):
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
    """FLOP/s of matrix products as `reals measure` found them on this device; None where it has not run."""
    path = measured_path(device)
    found = files.read_json(path)["peak_tflops"].get(precision) if path.exists() else None
    return found and found * 1e12


def load(name: str, scale: str, precision: str | None, sheet: Path) -> Rates:
    """The rates of a device: a measurement of that name (or its beginning) at this scale, else the stated table.

    ``sheet`` is rates.yaml. ConfigError names what is known where ``name`` or ``precision`` is not.
    """
    wanted = slug(name)
    found = sorted(MEASURED.glob("*.json"))
    for path in sorted((p for p in found if wanted in p.stem), key=lambda p: p.stem != wanted):
        stored = files.read_json(path)
        measured = stored["scales"].get(scale, {}).get("tflops", {})
        chosen = precision or next(iter(measured), None)
        if chosen is not None and chosen in measured:
            return Rates(
                stored["device"], chosen, f"measured {stored['scales'][scale]['date']}, {path}",
                _tera(stored["peak_tflops"].get(chosen)), {k: v * 1e12 for k, v in measured[chosen].items()}, stored["threads"],
            )  # fmt: skip
    table = read_yaml(sheet)
    if name not in table:
        known = [*table, *(p.stem for p in found)]
        raise ConfigError(
            f"{name}: no rates of this device at scale {scale}; run `reals measure --config scale={scale}` on it, "
            f"or name one with --gpu: {', '.join(known)}"
        )
    row = dict(table[name])
    device = row.pop("device", name)
    chosen = precision or next(iter(row))
    if chosen not in row:
        raise ConfigError(f"{sheet}: {name} has no rates for precision '{chosen}'; known: {', '.join(row)}")
    values = row[chosen]
    missing = [kind for kind in KINDS if not isinstance(values.get(kind), int | float)]
    if missing:
        raise ConfigError(f"{sheet}: {name}: {chosen}: needs a number of TFLOP/s for {', '.join(missing)}")
    return Rates(device, chosen, f"stated in {sheet}", _tera(values.get("peak")), {k: values[k] * 1e12 for k in KINDS})


def _tera(value: float | None) -> float | None:
    return None if value is None else value * 1e12
