"""Hands a command over to the import server (`reals.machine.prefork`) and waits for its exit code.

The command line calls `submit` before it imports anything else, so this module imports the standard library only, and little of it.
Request and answers travel over a UNIX socket, each a length or number of four bytes:

    client -> server    the client's standard streams and the length of the request; the request (JSON)
    server -> client    the process id of the child that runs the command; once that ended, its exit code
"""

import array
import json
import os
import signal
import socket
import struct
import sys
from typing import NamedTuple

from reals.machine.signals import EXIT_BUG, EXIT_INTERRUPTED, ended_by
from reals.machine.world import launched

VARIABLE = "REALS_PREFORK"  # names the server's socket
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # sent on to the child
NUMBER = struct.Struct("!I")
BY_SIGNAL = 128  # and the signal's number: the exit code of a child that a signal ended


class Request(NamedTuple):
    """All that a command takes from the process it was typed in, but for the standard streams."""

    arguments: list[str]
    folder: str
    environment: dict[str, str]


def submit(arguments: list[str]) -> int | None:
    """Runs ``reals ARGUMENTS`` in a child of the server; its exit code, or None where there is no server to reach."""
    path = os.environ.get(VARIABLE)
    if not path or launched():  # torchrun watches its own processes
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(path)
        except OSError:
            return None
        send(connection, Request(arguments, os.getcwd(), dict(os.environ)))
        pid = receive_number(connection)
        if pid is None:
            return None
        for number in FORWARDED:
            signal.signal(number, lambda received, frame: kill(pid, received))
        code = receive_number(connection)
    if code is None:
        print("reals: the process that ran this command is gone (killed or out of memory)", file=sys.stderr)
        return EXIT_BUG
    if code > BY_SIGNAL and code != EXIT_INTERRUPTED:
        print(f"reals: the process that ran this command was ended by {ended_by(code - BY_SIGNAL)}", file=sys.stderr)
    return code


def send(connection: socket.socket, request: Request) -> None:
    """The request, and with it this process's standard streams."""
    text = json.dumps(request._asdict()).encode()
    streams = array.array("i", [0, 1, 2])
    connection.sendmsg([NUMBER.pack(len(text))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
    connection.sendall(text)


def receive(connection: socket.socket) -> tuple[Request, list[int]]:
    """The request and the client's standard streams, as files of this process; ConnectionError where the client left."""
    streams = array.array("i")
    size, ancillary, _, _ = connection.recvmsg(NUMBER.size, socket.CMSG_SPACE(3 * streams.itemsize))
    if len(size) < NUMBER.size:
        raise ConnectionError("the client left before its request began")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            streams.frombytes(content[: len(content) - len(content) % streams.itemsize])
    text = receive_bytes(connection, NUMBER.unpack(size)[0])
    if text is None:
        raise ConnectionError("the client left before its request was whole")
    return Request(**json.loads(text)), list(streams)


def send_number(connection: socket.socket, number: int) -> None:
    connection.sendall(NUMBER.pack(number))


def receive_number(connection: socket.socket) -> int | None:
    """None where the other side is gone."""
    data = receive_bytes(connection, NUMBER.size)
    return None if data is None else NUMBER.unpack(data)[0]


def receive_bytes(connection: socket.socket, count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        try:
            more = connection.recv(count - len(data))
        except OSError:
            return None
        if not more:
            return None
        data += more
    return data


def kill(pid: int, number: int) -> None:
    """Sends a signal, unless the process has ended by now."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
