"""How jobs are told to stop and how they say that they were: signals, the clock, and exit codes."""

import os
import signal
import threading
import time
from contextlib import contextmanager

from reals.machine import dispatch

EXIT_STOPPED = 75  # asked to stop (SIGTERM, SIGUSR1), state saved: run the same command again
EXIT_PEER = 76  # another process of the run died: run the same command again, it goes on from the last state
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
GO_ON = "the same command goes on from the last saved state"


@contextmanager
def stop_requests():
    """A list that becomes non-empty when a scheduler warns this process (SIGTERM, SIGUSR1), a person stops it (Ctrl-C) or
    its time is nearly over (`dispatch.STOP_AT`; SLURM itself would warn only seconds before it kills)."""
    seen: list[int] = []
    old = {s: signal.signal(s, lambda number, frame: seen.append(number)) for s in STOP_SIGNALS}
    clock = threading.Timer(float(os.environ.get(dispatch.STOP_AT, 0)) - time.time(), seen.append, [signal.SIGUSR1])
    if dispatch.STOP_AT in os.environ:
        clock.daemon = True
        clock.start()
    try:
        yield seen
    finally:
        clock.cancel()
        for number, handler in old.items():
            signal.signal(number, handler)
