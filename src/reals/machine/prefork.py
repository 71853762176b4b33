"""The import server: a process that has already paid for the imports and forks one child per command.

Importing torch, timm and diffusers costs some eight seconds of CPU. A workflow of a hundred small jobs would spend more on that
than on the jobs. Snakemake's driver starts this server beside itself (`running`: ``python -m reals.machine.prefork SOCKET``) and
names its socket in REALS_PREFORK; the command line then hands its arguments, folder and standard streams over
(`reals.machine.handover`) and waits for the exit code. Without the variable, as on a cluster node, every command runs by itself.
"""

import ctypes
import importlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from reals.experiment.stage_table import STAGES
from reals.machine.dispatch import VISIBLE
from reals.machine.handover import BY_SIGNAL, FORWARDED, VARIABLE, Request, kill, receive, send_number
from reals.machine.signals import EXIT_BUG, EXIT_DONE, EXIT_MISTAKE

PRELOADED = (
    "torch", "numpy", "diffusers.models.autoencoders.autoencoder_kl", "timm.models.vision_transformer", "timm", "lpips",
    "torch_fidelity", "safetensors.torch", "sklearn.linear_model", "sklearn.manifold", "scipy.ndimage", "mlxtend.data",
    "pandas", "matplotlib.figure", "matplotlib.backends.backend_agg", "reals.cli.main", "reals.machine.memory",
    "reals.records.provenance", "reals.records.journal", "reals.report.commands", *dict.fromkeys(stage.module for stage in STAGES),
)  # fmt: skip
STARTUP_SECONDS = 600.0  # on a machine that is very busy; a server that ends is noticed at once
LOOK_SECONDS = 1.0  # between looks whether the process that started the server is still there
LAST_SECONDS = 30.0  # for the children to save their state, when the server is told to stop
PR_SET_PDEATHSIG = 1  # prctl.h


@contextmanager
def running(path: Path) -> Iterator[None]:
    """A server listens at ``path`` inside the block, unless its children could not use GPUs; RuntimeError where it does not come up."""
    server = subprocess.Popen([sys.executable, "-m", "reals.machine.prefork", str(path)])
    try:
        began = time.monotonic()
        while not path.exists():
            if server.poll() == EXIT_MISTAKE:
                break  # it said why; without it each command runs by itself
            if server.poll() is not None or time.monotonic() - began > STARTUP_SECONDS:
                raise RuntimeError("the import server (python -m reals.machine.prefork) did not start; see its message above")
            time.sleep(0.05)
        yield
    finally:
        server.terminate()
        server.wait()


def serve(path: Path) -> None:
    """Serves until the process that started this one is gone, or SIGTERM; children still running then are ended."""
    parent = os.getppid()
    # CUDA, once asked whether it is there (diffusers does so on import), is unusable in forked children. Where no GPU is visible
    # torch knows the answer without it, also on a machine without NVML or with MIG. A child sees those of its own environment.
    os.environ |= {"PYTORCH_NVML_BASED_CUDA_CHECK": "1", VISIBLE: ""}
    for name in PRELOADED:
        importlib.import_module(name)
    if not usable_in_children():
        print("reals: an imported library asked CUDA itself; jobs start an interpreter each", file=sys.stderr, flush=True)
        sys.exit(EXIT_MISTAKE)
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the clients, which pass it on
    try:
        server = Server(path)
    except OSError as error:  # a file system without sockets
        print(f"reals: {path}: {error.strerror or error}; jobs start an interpreter each", file=sys.stderr, flush=True)
        sys.exit(EXIT_MISTAKE)
    while not stopping and os.getppid() == parent:
        server.turn()
    server.close()


def usable_in_children() -> bool:
    """Whether a process forked from this one may use CUDA."""
    pid = os.fork()
    if pid == 0:
        torch = sys.modules.get("torch")
        os._exit(torch is not None and torch.cuda._is_in_bad_fork())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


class Server:
    """A listening socket, and the children that run what was asked for."""

    def __init__(self, path: Path):
        self.path = path
        self.children: dict[int, socket.socket] = {}  # process id -> its client
        self.waited: set[int] = set()  # children whose client is still there
        path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(path))
        self.listener.listen(64)
        # A child's end writes a byte here, which wakes `select`.
        self.woken, self.waker = socket.socketpair()
        self.woken.setblocking(False)
        self.waker.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # not ignored: only a handled signal is written there
        signal.set_wakeup_fd(self.waker.fileno())

    def turn(self) -> None:
        """Waits until something happens, at most `LOOK_SECONDS`, and does what follows from it."""
        clients = [self.children[pid] for pid in self.waited]
        ready, _, _ = select.select([self.listener, self.woken, *clients], [], [], LOOK_SECONDS)
        if self.woken in ready:
            self.woken.recv(4096)
        self.report_ended()
        self.stop_abandoned(ready)
        if self.listener in ready:
            self.accept()

    def report_ended(self) -> None:
        """Tells the clients of children that ended their exit codes."""
        for pid, code in self.ended():
            with suppress(OSError), self.children.pop(pid) as client:
                send_number(client, code)
            self.waited.discard(pid)

    def ended(self) -> list[tuple[int, int]]:
        """(process id, exit code) of children that have ended since the last call; 128 + n for one that signal n killed."""
        found = []
        for pid in self.children:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                found.append((pid, code if code >= 0 else BY_SIGNAL - code))
        return found

    def stop_abandoned(self, ready: list[socket.socket]) -> None:
        """Stops children whose client is gone: nobody waits for the result."""
        for pid in list(self.waited):
            if self.children[pid] in ready and not is_open(self.children[pid]):
                kill(pid, signal.SIGTERM)
                self.waited.discard(pid)

    def accept(self) -> None:
        """Takes one request and forks the child that runs it."""
        client, _ = self.listener.accept()
        try:
            request, streams = receive(client)
        except OSError:
            client.close()
            return
        pid = os.fork()
        if pid == 0:
            self.listener.close()
            run(request, streams)
        for stream in streams:
            os.close(stream)
        self.children[pid] = client
        try:
            send_number(client, pid)
            self.waited.add(pid)
        except OSError:
            kill(pid, signal.SIGTERM)

    def close(self) -> None:
        """Stops all children and waits `LAST_SECONDS` for them; at this process's end the kernel kills the rest."""
        for pid in self.children:
            kill(pid, signal.SIGTERM)
        until = time.monotonic() + LAST_SECONDS
        while self.children and time.monotonic() < until:
            for pid, _ in self.ended():
                self.children.pop(pid).close()
            time.sleep(0.05)
        self.path.unlink(missing_ok=True)


def run(request: Request, streams: list[int]) -> NoReturn:
    """In the child: becomes the process that the command was typed in, as far as it can tell, runs the command and ends."""
    die_with_parent()
    for number in (signal.SIGCHLD, *FORWARDED):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    del os.environ[VARIABLE]
    from reals.cli.main import main  # imported before the fork, but not by those who only start the server

    code = EXIT_BUG
    try:
        code = main(request.arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else EXIT_DONE if end.code is None else EXIT_BUG
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def die_with_parent() -> None:
    """Linux: the kernel kills this process when its parent ends, so that a killed server leaves no writer behind."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def is_open(connection: socket.socket) -> bool:
    """Whether the other side is still there."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
