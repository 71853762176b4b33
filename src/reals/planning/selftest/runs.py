"""Trainings in processes of their own: several against one, killed and gone on with, compiled against not."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from reals.experiment.engine import EngineConfig
from reals.machine import compiler as compilers
from reals.machine.cores import THREADS
from reals.machine.handover import VARIABLE
from reals.planning.selftest.agreement import Leaves, leaves, same_bits
from reals.planning.selftest.outcome import Fault, Skipped
from reals.planning.selftest.steps import ALLOWED, CPU, STEPS, Trace, apart, changes
from reals.planning.selftest.tiny import Tiny
from reals.training import loop
from reals.training.processes import Processes
from reals.training.states import States

MOST_PROCESSES = 4
SPLIT = ("SiT", "autoencoder")  # trained by several: gradients by DistributedDataParallel, and by our own exchange
KILLED_STEPS = 200  # of the training that is killed: at some milliseconds a step it lives long enough to be killed
SECONDS = 240.0  # for processes to start, import on a slow file system, meet and make a few steps
COMPILE_SECONDS = 150.0
LAST_SECONDS = 40.0  # to end after SIGTERM
LOOK_SECONDS = 0.005


@dataclass(frozen=True)
class Training:
    """What a process trains, in ``folder``: each of ``stages`` for ``steps``, in float32; saved every ``save_seconds`` and at the end."""

    folder: str
    stages: tuple[str, ...]
    steps: int
    compiled: bool = False
    save_seconds: float = 300.0

    def make(self, tiny: Tiny, device: torch.device | None = None) -> None:
        """Trains here, as one of the processes that torchrun started, if it did."""
        engine = EngineConfig(log_every=1, save_seconds=self.save_seconds)
        with Processes("fp32", compiled=self.compiled, deterministic=True, device=device) as processes:
            for stage in self.stages:
                task = tiny.task(stage, processes)
                loop.train(
                    task, Path(self.folder, stage), self.steps, label=f"selftest {stage}", processes=processes, engine=engine
                )

    def states(self, stage: str) -> States:
        return States(Path(self.folder, stage, "state"))

    def trace(self, tiny: Tiny, stage: str) -> Trace:
        """What the training changed."""
        return Trace({}, changes(self.final(stage), leaves(tiny.task(stage, Processes(device=CPU)).state())))

    def final(self, stage: str) -> Leaves:
        """The state at the end; Fault where there is none."""
        states = self.states(stage)
        if states.newest(self.steps) != self.steps:
            raise Fault(f"{stage}: no whole state of step {self.steps} in {states.folder}")
        return leaves(states.read(self.steps)["task"])


@dataclass(frozen=True)
class Runs:
    """Starts trainings below ``folder``, on ``device``'s kind; children read the sheets in ``sheets``."""

    tiny: Tiny
    device: torch.device
    folder: Path
    sheets: Path

    def start(self, training: Training, processes: int = 1, cpu: bool = False) -> subprocess.Popen:
        """A process, or the launcher of several, that makes ``training``; without GPUs where ``cpu``."""
        command = [sys.executable, "-m", *(("reals",) if processes == 1 else (
            "reals.machine.launch", "--nproc-per-node", str(processes), "--standalone"))]  # fmt: skip
        command += ["selftest", "--sheets", str(self.sheets), "--train", json.dumps(asdict(training))]
        threads = str(torch.get_num_threads())
        environment = {k: v for k, v in os.environ.items() if k != VARIABLE} | {THREADS: threads, "OMP_NUM_THREADS": threads}
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(self.folder / "inductor")  # or what another day compiled would be taken
        if cpu:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def end(self, process: subprocess.Popen, seconds: float, what: str) -> None:
        """Waits for the process; Fault where it fails or takes longer than ``seconds``, after which it is ended."""
        try:
            _, said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                process.wait(LAST_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            raise Fault(f"{what}: not done after {seconds:.0f} s, ended") from None
        finally:
            if process.stderr is not None:
                process.stderr.close()
        if process.returncode:
            raise Fault(f"{what}: exit code {process.returncode}: {(said.strip().splitlines() or ['it said nothing'])[-1]}")

    def processes(self) -> str:
        """That several processes, started as jobs start them, train the network that one does."""
        gpus = torch.cuda.device_count() if self.device.type == "cuda" else 0
        count, cpu = (min(gpus, MOST_PROCESSES), False) if gpus > 1 else (2, True)
        one, many = (Training(str(self.folder / name), SPLIT, STEPS) for name in ("one process", "processes"))
        started = self.start(many, count, cpu)
        one.make(self.tiny, CPU if cpu else self.device)
        self.end(started, SECONDS, f"{count} processes")
        found = [
            apart(
                many.trace(self.tiny, stage), one.trace(self.tiny, stage), ALLOWED[stage]["fp32"], f"{stage} in {count} processes"
            )
            for stage in SPLIT
        ]
        where = "on the CPU (gloo)" if cpu else "a GPU each (NCCL)"
        return f"{count} {where}: weights, EMA and moments {max(found):.0e} from one process's after {STEPS} steps"

    def resumed(self) -> str:
        """That a training killed in its midst goes on to the bits of one that was not."""
        whole, cut = (
            Training(str(self.folder / name), ("SiT",), KILLED_STEPS, save_seconds=LOOK_SECONDS) for name in ("whole", "cut")
        )
        killed = self.start(cut)
        try:
            until = time.monotonic() + SECONDS
            while not cut.states("SiT").steps() and killed.poll() is None and time.monotonic() < until:
                time.sleep(LOOK_SECONDS)
        finally:
            killed.kill()
            _, said = killed.communicate()
        saved = cut.states("SiT").steps()
        if killed.returncode != -signal.SIGKILL or not saved or saved[-1] == KILLED_STEPS:
            raise Fault(f"the training to be killed ended by itself, exit code {killed.returncode}: "
                        f"{(said.strip().splitlines() or ['it said nothing'])[-1]}")  # fmt: skip
        again = self.start(cut)
        whole.make(self.tiny, self.device)
        self.end(again, SECONDS, "the training that goes on")
        same_bits(cut.final("SiT"), whole.final("SiT"), "after a kill and a resume")
        return f"killed at step {saved[-1]} or later of {KILLED_STEPS}, gone on with, the same bits as undisturbed"

    def compiled(self) -> str:
        """That a compiled network makes the steps of one that is not."""
        if lacks := compilers.missing(self.device.type == "cuda"):
            raise Skipped(f"{', '.join(lacks)} missing")
        plain, compiled = (
            Training(str(self.folder / name), ("SiT",), STEPS, name == "compiled") for name in ("plain", "compiled")
        )
        began = time.monotonic()
        started = self.start(compiled)
        plain.make(self.tiny, self.device)
        self.end(started, COMPILE_SECONDS, "torch.compile")
        found = apart(compiled.trace(self.tiny, "SiT"), plain.trace(self.tiny, "SiT"), ALLOWED["SiT"]["fp32"], "compiled")
        return f"{found:.0e} from eager after {STEPS} steps, {time.monotonic() - began:.0f} s with starting and compiling"
