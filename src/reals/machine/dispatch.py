"""Starts one stage with the processes, nodes and devices it was given: the one place that knows srun.

    python -m reals.machine.dispatch [--nodes N] [--gpus G] [--threads T] [--minutes M] [--together] stage transformer ...

In a job that our workflow sent to SLURM there are N nodes with G GPUs each; elsewhere, in an allocation of your own too, up
to G of the visible GPUs are leased, so that jobs that run at the same time never share one. A job that asks for none sees
none. With ``--together`` each GPU gets a process, joined by `reals.machine.launch` (torchrun); otherwise, and without GPUs,
there is one. This module imports the standard library only: on one machine it starts every job.
"""

import argparse
import contextlib
import fcntl
import itertools
import json
import os
import re
import runpy
import shlex
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from reals.machine import cuda
from reals.machine.cores import THREADS
from reals.machine.signals import STOP_AT
from reals.machine.world import forget

# A job ends itself before its time limit by this share of the limit, or by these seconds where they are less: time to save in,
# and for the start-up that the limit had counted already.
STOP_SHARE, STOP_SECONDS = 0.2, 300.0
SITE = "REALS_SITE"  # JSON: setup, scratch, container, python of the site file; set in jobs that our workflow sent
GRANTED = "REALS_GPUS"  # how many GPUs of this node the job was given
STARTS = "REALS_STARTS"  # the file that records which SLURM job started what
VISIBLE = "CUDA_VISIBLE_DEVICES"
LEASE_SECONDS = 0.2  # between looks at GPUs that others hold
DEVICES = "nvidia[0-9]*"  # of /dev: a GPU each
MIG = "MIG-"  # begins the id of a slice of a GPU
FIRST_PORT, PORTS = 15000, 10000  # below what systems hand out by themselves


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Ids of the GPUs, or of the MIG slices named, that this process may use, without asking a driver."""
    named = environment.get(VISIBLE)
    if named is not None:
        # Each once: one that is named twice would be waited for, but is one GPU. CUDA shows none from the first that is none on.
        shown = itertools.takewhile(lambda gpu: gpu not in ("", "-1", "NoDevFiles"), map(str.strip, named.split(",")))
        return list(dict.fromkeys(shown))
    # CUDA counts from 0 what it finds: in a container that holds /dev/nvidia3 alone, that is GPU 0.
    return [str(number) for number in range(len(list(Path("/dev").glob(DEVICES))))]


def per_job(gpus: list[str]) -> int:
    """How many of these a job can use at most: of MIG slices one, since CUDA shows a process no more and NCCL joins none."""
    return 1 if gpus and gpus[0].startswith(MIG) else len(gpus)


def refuse_idle_gpus(usable: int, version: str) -> None:
    """OSError where the job holds GPUs that PyTorch (``version``) cannot use: it would crawl on the CPU instead.

    Nothing where there is no GPU at all, as on the pretended nodes of a test cluster.
    """
    granted = int(os.environ.get(GRANTED, "0"))
    if usable < granted and any(Path("/dev").glob(DEVICES)):
        driver = cuda.driver()
        why = cuda.driver_fault(driver, cuda.built_for()) if driver else None
        raise OSError(
            f"this job was given {granted} GPUs on {socket.gethostname()}, PyTorch {version} can use {usable}: "
            f"{why or 'look at nvidia-smi there, or keep jobs away from that node'}"
        )


def lease(count: int, gpus: list[str], folder: Path) -> tuple[list[str], list[int]]:
    """(``count`` of ``gpus``, the files that hold them): waits until so many are free; the kernel frees them at the end.

    First come, first served: who waits holds the queue's lock, so that many small jobs cannot starve a large one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held: dict[str, int] = {}
    with (folder / "queue").open("w") as queue:
        fcntl.flock(queue, fcntl.LOCK_EX)
        while True:
            for gpu in gpus:
                if gpu in held or len(held) == count:
                    continue
                number = os.open(folder / re.sub(r"\W", "_", gpu), os.O_WRONLY | os.O_CREAT, 0o600)
                try:
                    fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    held[gpu] = number
                except BlockingIOError:
                    os.close(number)
            if len(held) == count:
                return sorted(held, key=gpus.index), list(held.values())
            time.sleep(LEASE_SECONDS)


def started(python: list[str], processes: int, nodes: int, environment: Mapping[str, str]) -> list[str]:
    """The command that starts ``processes`` on this node, up to where the arguments of `reals` begin."""
    if nodes == 1:
        if processes == 1:
            return [*python, "-m", "reals"]
        place = ["--standalone"]
    else:
        # The node that ran srun is the first of the job, so its address is that of process 0.
        port = FIRST_PORT + int(environment["SLURM_JOB_ID"]) % PORTS
        place = [f"--nnodes={nodes}", f"--node-rank={environment['SLURM_NODEID']}",
                 f"--master-addr={environment['SLURM_LAUNCH_NODE_IPADDR']}", f"--master-port={port}"]  # fmt: skip
    return [*python, "-m", "reals.machine.launch", *place, f"--nproc-per-node={processes}"]


def srun(nodes: int, threads: int, gpus: int) -> list[str]:
    """One task on each node. All is said again: Snakemake's executor hides the job's own settings from its steps."""
    return ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", f"--cpus-per-task={threads}",
            *([f"--gres=gpu:{gpus}"] if gpus else []), "--kill-on-bad-exit=1", "--label"]  # fmt: skip


def stop_at(now: float, minutes: float) -> float:
    """When to save and end a job that started now and may run for ``minutes``."""
    return now + 60 * minutes - min(STOP_SHARE * 60 * minutes, STOP_SECONDS)


def in_site(command: list[str], site: dict[str, str]) -> list[str]:
    """The command after the site's own shell lines."""
    lines = ["set -e"]
    if "scratch" in site:
        lines.append(f'export TMPDIR="{site["scratch"]}"; mkdir -p "$TMPDIR"')
    if "setup" in site:
        lines.append(site["setup"])
    return command if len(lines) == 1 else ["bash", "-c", "\n".join([*lines, 'exec "$@"']), "reals", *command]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m reals.machine.dispatch", description="Starts one stage.")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=0, help="of each node")
    parser.add_argument("--threads", type=int, default=1, help="of each node")
    parser.add_argument("--minutes", type=float, help="the job's time limit")
    parser.add_argument("--together", action="store_true", help="a process for each GPU, joined by torchrun")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what follows `reals`")
    options = parser.parse_args(arguments)
    forget()
    if "SLURM_JOB_ID" in os.environ and SITE in os.environ:
        _in_slurm(options, arguments)
    else:
        _on_this_machine(options)


def _in_slurm(options: argparse.Namespace, arguments: list[str]) -> None:
    environment = os.environ
    if not options.gpus:
        environment[VISIBLE] = ""  # where SLURM does not confine its jobs, they see all GPUs of the node
    if options.minutes and STOP_AT not in environment:
        environment[STOP_AT] = str(stop_at(time.time(), options.minutes))
    if options.nodes > 1 and environment.get("SLURM_STEP_NUM_NODES") != str(options.nodes):
        _become([*srun(options.nodes, options.threads, options.gpus), sys.executable, "-m", "reals.machine.dispatch", *arguments])
    if options.nodes == 1 or environment["SLURM_NODEID"] == "0":
        _note(options.command, keep_log=options.together)
    site = json.loads(environment[SITE])
    python = [*shlex.split(site.get("container", "")), site.get("python", sys.executable)]
    processes = max(1, options.gpus) if options.together else 1
    environment[THREADS] = str(max(1, options.threads // processes))
    environment[GRANTED] = str(options.gpus)
    _become(in_site([*started(python, processes, options.nodes, environment), *options.command], site))


def _note(command: list[str], keep_log: bool) -> None:
    """Says in the stage's log, and in the workflow's book of starts, which SLURM job begins or goes on with it, and where.

    Snakemake removes the log when it starts the job again; ``keep_log`` gives it a second name, which stays.
    """
    job, node = os.environ["SLURM_JOB_ID"], os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    print(f"SLURM job {job} on {node}, {time.strftime('%Y-%m-%d %H:%M:%S')}", flush=True)
    if keep_log:
        with contextlib.suppress(OSError):  # not a file, or a file system without hard links
            log = Path(os.readlink("/proc/self/fd/1"))
            log.with_name(f"{log.stem}.{time.strftime('%m%d-%H%M%S')}.log").hardlink_to(log)
    if STARTS in os.environ:
        from reals import files  # on SLURM alone: elsewhere each job would wait for it

        row = {"began": time.time(), "job": job, "node": node, "command": command}
        files.append_line(Path(os.environ[STARTS]), row)


def _on_this_machine(options: argparse.Namespace) -> None:
    processes, gpus = 1, visible_gpus()
    held: list[int] = []
    if not options.gpus:
        os.environ[VISIBLE] = ""
    elif gpus:
        taken, held = lease(min(options.gpus, per_job(gpus)), gpus, Path(tempfile.gettempdir(), f"reals-gpus-{os.getuid()}"))
        os.environ[VISIBLE], os.environ[GRANTED] = ",".join(taken), str(len(taken))
        processes = len(taken) if options.together else 1
    os.environ[THREADS] = str(max(1, options.threads // processes))
    if processes == 1:
        sys.argv[1:] = options.command
        runpy.run_module("reals", run_name="__main__", alter_sys=True)
    for number in held:
        os.set_inheritable(number, True)  # torchrun holds the lease on
    _become([*started([sys.executable], processes, 1, os.environ), *options.command])


def _become(command: list[str]) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
