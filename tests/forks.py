"""Processes for tests, forked because their imports are paid for, as torchrun or a scheduler would start and end them."""

import atexit
import contextlib
import importlib
import itertools
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from reals.machine import prefork, signals
from reals.training import loop
from reals.training.finite import NotFinite
from reals.training.processes import PeerLost

_ports = itertools.count()
OF_SNAKEMAKE = ("snakemake.cli", "snakemake.workflow", "snakemake.dag", "reals.cli.driver")  # what takes long to import


def numbered(rank: int, count: int, port: int = 29500) -> dict[str, str]:
    """The environment in which torchrun starts one process of ``count`` on this machine."""
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip


def fork(body, *arguments, rank: int = 0, count: int = 1, port: int = 0) -> int:
    """Runs ``body`` in a child (imports are paid for) as torchrun would start it; its exit code is 1 for an exception."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        if count > 1:
            os.environ.update(numbered(rank, count, port), OMP_NUM_THREADS="1")
        body(*arguments)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except loop.Stopped:
        code = signals.EXIT_STOPPED
    except NotFinite as error:
        print(error, file=sys.stderr)
        code = 2
    except PeerLost:
        code = signals.EXIT_PEER
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def free_port() -> int:
    """Below those that the kernel hands out: until rank 0 listens, no connection of another test can take it."""
    while True:
        port = 10_000 + (64 * os.getpid() + next(_ports)) % 20_000
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def fork_all(count: int, body, *arguments) -> list[int]:
    """The process ids of ``count`` processes that train together."""
    port = free_port()
    return [fork(body, *arguments, rank=rank, count=count, port=port) for rank in range(count)]


def codes(pids: list[int], seconds: float = 60.0) -> list[int]:
    """Their exit codes (minus the signal for a killed one); kills and fails what still runs after ``seconds``."""
    until, ended = time.monotonic() + seconds, {}
    while len(ended) < len(pids):
        for pid in pids:
            if pid not in ended:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    ended[pid] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            for pid in set(pids) - set(ended):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            pytest.fail(f"still running after {seconds} s: {len(pids) - len(ended)} of {len(pids)}")
        time.sleep(0.01)
    return [ended[pid] for pid in pids]


def wait_for(path: Path, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path.name} did not come"
        time.sleep(0.01)


class ImportServer:
    """In the place of the Popen that `reals.machine.prefork` calls: a fork, made before Snakemake has threads, that serves when asked."""

    def __init__(self) -> None:
        reading, self.asked = os.pipe()
        self.code: int | None = None
        self.pid = fork(self.serve, reading)
        os.close(reading)

    def serve(self, reading: int) -> None:
        os.close(self.asked)
        if path := os.read(reading, 4096).decode():  # nothing where Snakemake ends without a job
            torch.use_deterministic_algorithms(False)  # as in an interpreter of its own
            prefork.usable_in_children = lambda: True  # no job of the tests asks for a GPU
            prefork.serve(Path(path))

    def __call__(self, command: list[str]) -> "ImportServer":
        os.write(self.asked, command[-1].encode())
        return self

    def poll(self) -> int | None:
        if self.code is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if done else None
        return self.code

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def wait(self) -> None:
        while self.poll() is None:
            time.sleep(0.01)


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m snakemake arguments`` in a folder, and its import server, in forks of this process, which has made their imports."""
    for name in (*OF_SNAKEMAKE, *prefork.PRELOADED):
        importlib.import_module(name)

    def body() -> None:
        atexit._clear()  # pytest's own
        importlib.reload(warnings)  # pytest makes errors of them, and keeps them
        os.chdir(folder)
        for stream, descriptor in ((os.open(os.devnull, os.O_RDONLY), 0), (out.fileno(), 1), (err.fileno(), 2)):
            os.dup2(stream, descriptor)
        sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", buffering=1) for descriptor in (1, 2))
        sys.modules["snakemake.shell"].STDOUT = sys.stdout  # where jobs print: on import it was pytest's
        prefork.subprocess = SimpleNamespace(Popen=ImportServer())
        sys.argv = ["snakemake", *arguments]
        try:
            runpy.run_module("snakemake", run_name="__main__", alter_sys=True)
        finally:
            atexit._run_exitfuncs()
            sys.stdout.flush()

    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        [code] = codes([fork(body)], seconds=1800)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(["snakemake", *arguments], code, out.read(), err.read())
