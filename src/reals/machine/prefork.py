"""A process that has already paid for the imports and forks one child per command.

Importing torch, timm and diffusers costs some eight seconds of CPU. A workflow of a hundred small jobs would spend more
on that than on the jobs. Snakemake starts this server beside itself (``python -m reals.machine.prefork SOCKET``) and names its
socket in REALS_PREFORK; the command line then hands its arguments, folder and standard streams over (`submit`) and waits
for the exit code. Without the variable, as on a cluster node, every command simply runs by itself.

This module imports the standard library only: the waiting side must be cheap.
"""

import array
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from pathlib import Path

VARIABLE = "REALS_PREFORK"
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
PRELOADED = (
    "torch", "numpy", "diffusers.models.autoencoders.autoencoder_kl", "timm.models.vision_transformer", "timm", "lpips",
    "torch_fidelity", "safetensors.torch", "sklearn.linear_model", "sklearn.manifold", "scipy.ndimage", "mlxtend.data",
    "pandas", "matplotlib.figure", "matplotlib.backends.backend_agg", "reals.cli.main",
)  # fmt: skip
LAST_SECONDS = 30.0
_LENGTH = struct.Struct("!I")


def submit(arguments: list[str]) -> int | None:
    """Runs ``reals ARGUMENTS`` in a child of the server; its exit code, or None where there is no server to reach."""
    path = os.environ.get(VARIABLE)
    if not path or "LOCAL_RANK" in os.environ:  # torchrun watches its own processes
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except OSError:
        return None
    request = json.dumps({"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}).encode()
    streams = array.array("i", [0, 1, 2])
    connection.sendmsg([_LENGTH.pack(len(request))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
    connection.sendall(request)
    pid = _read_number(connection)
    if pid is None:
        return None
    for number in FORWARDED:
        signal.signal(number, lambda n, frame: _kill(pid, n))
    code = _read_number(connection)
    if code is None:
        print("reals: the process that ran this command is gone (killed or out of memory)", file=sys.stderr)
        return 1
    return code


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _read_number(connection: socket.socket) -> int | None:
    data = b""
    while len(data) < _LENGTH.size:
        try:
            more = connection.recv(_LENGTH.size - len(data))
        except InterruptedError:
            continue
        except OSError:
            return None
        if not more:
            return None
        data += more
    return _LENGTH.unpack(data)[0]


def _receive(connection: socket.socket) -> tuple[dict, list[int]]:
    streams = array.array("i")
    data, ancillary, _, _ = connection.recvmsg(_LENGTH.size, socket.CMSG_SPACE(3 * streams.itemsize))
    if len(data) < _LENGTH.size:
        raise ConnectionError("the client left before its request began")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            streams.frombytes(content[: len(content) - len(content) % streams.itemsize])
    size, request = _LENGTH.unpack(data)[0], b""
    while len(request) < size:
        more = connection.recv(size - len(request))
        if not more:
            raise ConnectionError("the client left before its request was whole")
        request += more
    return json.loads(request), list(streams)


def _die_with_parent() -> None:
    """Linux: the kernel kills this process when its parent ends, so that a killed server leaves no writer behind."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    except (OSError, AttributeError):
        pass


def _child(request: dict, streams: list[int]) -> None:
    _die_with_parent()
    for number in (signal.SIGCHLD, *FORWARDED):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    del os.environ[VARIABLE]
    from reals.cli.main import main

    code = 1
    try:
        code = main(request["arguments"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve(path: Path) -> None:
    """Serves until the process that started this one is gone, or SIGTERM; children still running then are ended."""
    parent = os.getppid()
    # Asking CUDA itself whether it is there (diffusers does so on import) would make it unusable in forked children.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import importlib

    for name in PRELOADED:
        importlib.import_module(name)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(64)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the clients, which pass it on
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
    wake_read, wake_write = socket.socketpair()
    wake_read.setblocking(False)
    wake_write.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake_write.fileno())
    running: dict[int, socket.socket] = {}
    waited: set[int] = set()  # children whose client is still there
    while not stopping and os.getppid() == parent:
        ready, _, _ = select.select([listener, wake_read, *(running[pid] for pid in waited)], [], [], 1.0)
        if wake_read in ready:
            wake_read.recv(4096)
        for pid in _finished(running):
            code = _finished.codes.pop(pid)
            try:
                running[pid].sendall(_LENGTH.pack(code))
            except OSError:
                pass
            running.pop(pid).close()
            waited.discard(pid)
        for pid in list(waited):
            if running[pid] in ready and not _alive(running[pid]):
                _kill(pid, signal.SIGTERM)  # its client is gone: nobody waits for the result
                waited.discard(pid)
        if listener in ready:
            connection, _ = listener.accept()
            try:
                request, streams = _receive(connection)
            except OSError:
                connection.close()
                continue
            pid = os.fork()
            if pid == 0:
                listener.close()
                _child(request, streams)
            for stream in streams:
                os.close(stream)
            running[pid] = connection
            try:
                connection.sendall(_LENGTH.pack(pid))
                waited.add(pid)
            except OSError:
                _kill(pid, signal.SIGTERM)
    for pid in running:
        _kill(pid, signal.SIGTERM)
    until = time.monotonic() + LAST_SECONDS  # to save their state; at this process's end the kernel kills them
    while running and time.monotonic() < until:
        for pid in _finished(running):
            running.pop(pid).close()
        time.sleep(0.05)
    path.unlink(missing_ok=True)


def _finished(running: dict[int, socket.socket]) -> list[int]:
    done = []
    for pid in running:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            _finished.codes[pid] = code if code >= 0 else 128 - code
            done.append(pid)
    return done


_finished.codes = {}


def _alive(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
