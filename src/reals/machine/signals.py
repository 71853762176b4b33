"""How jobs are told to stop and how they say how they ended: signals, the clock, and exit codes."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

# Exit codes of all our commands; docs/training.md says what to do after each.
EXIT_DONE = 0
EXIT_BUG = 1  # with a traceback; also where nobody knows how a process ended
EXIT_MISTAKE = 2  # something to mend, a loss that is not finite, or too little memory; one line says what
EXIT_STOPPED = 75  # asked to stop (SIGTERM, SIGUSR1, the clock), state saved: run the same command again
EXIT_PEER = 76  # another process of the run died: run the same command again, it goes on from the last state
EXIT_INTERRUPTED = 130  # Ctrl-C where there is no state to save

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
STOP_AT = "REALS_STOP_AT"  # seconds since 1970 at which a training saves its state and ends, before SLURM kills it
GO_ON = "the same command goes on from the last saved state"


def ended_by(number: int) -> str:
    """A signal that ended a process by name, with what it usually means."""
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    meant = {"SIGKILL": " (out of memory, or by hand)", "SIGBUS": " (a full /dev/shm, or disk behind mapped memory)"}
    return name + meant.get(name, "")


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """A list that becomes non-empty when a scheduler warns this process (SIGTERM, SIGUSR1), a person stops it (Ctrl-C) or
    its time is nearly over (`STOP_AT`; SLURM itself would warn only seconds before it kills)."""
    seen: list[int] = []
    old = {s: signal.signal(s, lambda number, frame: seen.append(number)) for s in STOP_SIGNALS}
    clock = threading.Timer(float(os.environ.get(STOP_AT, 0)) - time.time(), seen.append, [signal.SIGUSR1])
    if STOP_AT in os.environ:
        clock.daemon = True
        clock.start()
    try:
        yield seen
    finally:
        clock.cancel()
        for number, handler in old.items():
            signal.signal(number, handler)
