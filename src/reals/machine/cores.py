"""How many CPU cores this process has: what its job was given, shared among the processes of the job on this node."""

import os

from reals.machine.world import world

THREADS = (
    "REALS_THREADS"  # cores of each process of a job, as `reals.machine.dispatch` found them; unset where it did not start it
)


def threads() -> int:
    """Threads of an operation in this process: one unless the job was given more, since the sizes run here gain little from two."""
    return int(os.environ.get(THREADS, "1"))


def cores() -> int:
    """At least 1: what the job was given, never more than the process's share of the cores that it may run on."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = max(1, allowed // world().local_size)  # torchrun's processes share a node's cores
    return min(share, int(os.environ.get(THREADS, share)))
