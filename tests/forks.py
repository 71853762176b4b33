"""Processes for tests, forked because their imports are paid for, as torchrun or a scheduler would start and end them."""

import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import pytest

from reals.machine import signals
from reals.training import loop
from reals.training.finite import NotFinite
from reals.training.processes import PeerLost


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


def fork_all(count: int, body, *arguments) -> list[int]:
    """The process ids of ``count`` processes that train together."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
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
