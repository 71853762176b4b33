"""Can this machine do the work: disk, file system, clock, GPUs, SLURM's partitions?"""

import fcntl
import mmap
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from reals import files
from reals.experiment.engine import Resources
from reals.experiment.reading import ConfigError
from reals.experiment.registry import Registry
from reals.machine import compiler as compilers
from reals.machine import cuda, dispatch, site
from reals.machine.slurm import check
from reals.planning.cost import Costs

TOOL_SECONDS = 15.0  # for sinfo and nvidia-smi to answer
CLOCK_SECONDS = 5.0  # between this machine's clock and the file server's


def disk(costs: Costs) -> str:
    """That the plan fits: what does not exist yet against what is free."""
    registry, needed = costs.registry, sum(costs.jobs[target].bytes for target in costs.graph.wanted)
    registry.root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(registry.root).free
    sizes = f"{registry.root} has {free / 1e9:.1f} GB free, about {needed / 1e9:.1f} GB are still needed"
    if free < needed:
        raise ConfigError(f"disk: {sizes}; free some, or link results/ to a larger disk")
    return sizes


def file_system(folder: Path) -> str:
    """What the stages rely on: atomic rename over a file, fsync, locks that exclude, memory maps."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".check.{socket.gethostname()}.{os.getpid()}"
    other = path.with_suffix(".other")
    step = "write"
    try:
        files.write_text(path, "old")
        other.write_text("new")
        step = "rename over a file"
        os.replace(other, path)
        if path.read_text() != "new":
            raise ConfigError(f"{folder}: a renamed file still shows its old content; use another file system for results/")
        step = "lock (flock)"
        with path.open() as one, path.open() as two:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                raise ConfigError(
                    f"{folder}: locks do not exclude a second writer; mount it with flock, or use another file system"
                )
        step = "map into memory"
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            mapped[0:1] = b"N"
    except OSError as error:
        raise ConfigError(f"{folder}: cannot {step} ({error.strerror}); use another file system for results/") from None
    finally:
        path.unlink(missing_ok=True)
        other.unlink(missing_ok=True)
    return f"{folder}: renames atomically, syncs, locks, maps"


def clock(folder: Path) -> str:
    """That this machine and the file server agree on the time, which Snakemake compares."""
    path = folder / f".clock.{socket.gethostname()}.{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        before = time.time()
        path.touch()
        stamped, after = path.stat().st_mtime, time.time()
    finally:
        path.unlink(missing_ok=True)
    off = max(before - stamped, stamped - after, 0.0)
    if off > CLOCK_SECONDS:
        raise ConfigError(f"clock: files in {folder} are stamped {off:.0f} s off this machine's clock; synchronise both (NTP)")
    if stamped < Path(__file__).stat().st_mtime - 86400:
        raise ConfigError("clock: this machine's clock is before the day its code was written; set it (NTP)")
    return f"agrees with that of {folder} to {CLOCK_SECONDS:.0f} s"


def gpus(registry: Registry) -> str:
    """The GPUs of this machine, their driver, and whether PyTorch can use them."""
    wanted = _asked(registry, "gpu")
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version,mig.mode.current", "--format=csv,noheader"]
    code, printed = _tool(command)
    if code is None:
        if wanted and shutil.which("sinfo") is None:
            raise ConfigError(
                f"GPUs: this machine has none (no nvidia-smi) and no SLURM; scale '{registry.experiment.scale.name}' asks for "
                f"up to {wanted} a job; run where they are, or lower resources.<rule>.gpu"
            )
        if not wanted:
            return "none here; this scale asks for none"
        return f"none here; jobs get theirs from SLURM, on nodes with {_needed_driver()}"
    if code:
        raise ConfigError(f"GPUs: nvidia-smi fails ({printed}); mend the driver")
    rows = [[field.strip() for field in line.split(",")] for line in printed.splitlines()]
    name, memory, driver, _ = rows[0]
    here = f"{len(rows)} x {name}, {memory}, driver {driver}"
    if not wanted:
        return f"{here}; this scale asks for none, and its jobs run on the CPU (docs/cluster.md, Without SLURM)"
    fault = cuda.driver_fault(driver, cuda.built_for())
    if fault is not None:
        raise ConfigError(f"GPUs: {here}: {fault}")
    visible = dispatch.visible_gpus()
    if not visible and dispatch.VISIBLE in os.environ:
        stated = f"{dispatch.VISIBLE}={os.environ[dispatch.VISIBLE]}"
        raise ConfigError(f"GPUs: {here}, but {stated} hides them, and jobs would run on the CPU; unset it, or name some")
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(f"GPUs: PyTorch {torch.__version__} cannot use them ({here}); it needs {_needed_driver()}")
    if shutil.which("sinfo") is not None:
        return here
    if any(row[-1] == "Enabled" for row in rows) and not any(gpu.startswith(dispatch.MIG) for gpu in visible):
        return f"{here}; sliced by MIG: set {dispatch.VISIBLE}=MIG-...,MIG-... to the slices that jobs may use (nvidia-smi -L)"
    each = dispatch.per_job(visible)
    return here if each >= wanted else f"{here}; jobs that ask for {wanted} get {each}"


def _needed_driver() -> str:
    """What the installed PyTorch needs of the NVIDIA driver, in words."""
    version = cuda.built_for()
    if version is None:
        return "a PyTorch built with CUDA"
    return f"NVIDIA driver {cuda.OLDEST_DRIVERS[int(version.split('.')[0])]} or newer (CUDA {version})"


def compiler() -> str:
    """That torch.compile has the compiler it builds with, on GPUs or on this machine's CPU."""
    found = compilers.found(gpu=True) or compilers.found(gpu=False)
    if found is None:
        raise ConfigError(
            "compiler: engine.compile needs one, and there is none here; install or load gcc, or set engine.compile: false"
        )
    return f"{found}, for engine.compile; the machines that train need one too"


def _asked(registry: Registry, key: str) -> int:
    return max((getattr(r, key) for r in registry.experiment.scale.resources.values()), default=0)


def slurm(registry: Registry, here: site.Site, where: str) -> str:
    """That the partitions of the site file ``where`` have what the rules ask for; where SLURM does not run, jobs need none."""
    if shutil.which("sinfo") is None:
        return "none here: jobs run on this machine"
    code, printed = _tool(["sinfo", "--noheader"])
    if code:
        raise ConfigError(
            f"SLURM: installed, but sinfo fails ({printed}); ask who runs it, or start jobs on this machine: leave out --profile"
        )
    return check(here, where, registry.experiment.scale.resources or {"default": Resources()})


def _tool(command: list[str]) -> tuple[int | None, str]:
    """(exit code, last line of what it printed); (None, "") where there is no such tool."""
    if shutil.which(command[0]) is None:
        return None, ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_SECONDS)
    except subprocess.TimeoutExpired:
        return 1, f"no answer in {TOOL_SECONDS:.0f} s"
    said = done.stdout.strip() if done.returncode == 0 else (done.stderr.strip().splitlines() or [""])[-1]
    return done.returncode, said
