"""Which process of how many this is, as torchrun numbers them; what other programs left in the environment counts for nothing.

Containers and schedulers set some of the same variables for their own ends: Kubeflow's WORLD_SIZE counts machines. Who believed
it would wait for processes that nobody started. This module imports the standard library only: every command asks it first.
"""

import os
from collections.abc import Mapping, MutableMapping
from typing import NamedTuple

PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
NEEDED = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)  # torchrun sets them all, and so must another launcher
LAUNCHER = "REALS_LAUNCHER"
"""The process id of `reals.machine.launch`, for the processes that it starts."""
OTHERS = (LAUNCHER, "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE")
PREFIXES = ("TORCHELASTIC_", "PET_")  # PET_: torchrun's own options


class World(NamedTuple):
    """The place of a process among those that train together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # of those on its node
    local_size: int = 1


def world(environment: Mapping[str, str] = os.environ) -> World:
    """This process's place: the launcher's numbers where all that it sets is there and fits together, else the only process."""
    return _numbered(environment) or World()


def launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher started this process, alone or with others."""
    return _numbered(environment) is not None


def ignore_leftovers(environment: MutableMapping[str, str] = os.environ) -> str | None:
    """Takes numbers that no launcher set out of the environment, where libraries would read them; a line that says so, or None."""
    left = [] if launched(environment) else [name for name in PLACE if name in environment]
    if not left:
        return None
    named = ", ".join(f"{name}={environment.pop(name)}" for name in left)
    return f"ignored {named}: not a launcher's (one sets {', '.join(NEEDED)}, which fit together), so this is the only process"


def forget(environment: MutableMapping[str, str] = os.environ) -> None:
    """Takes out all that torchrun sets or reads: whoever starts a job starts a new world."""
    for name in list(environment):
        if name in NEEDED or name in OTHERS or name.startswith(PREFIXES):
            del environment[name]


def _numbered(environment: Mapping[str, str]) -> World | None:
    """What a launcher says; None where something is missing or cannot be."""
    if any(not environment.get(name) for name in NEEDED):
        return None
    try:
        rank, size, local_rank = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        local_size = int(environment.get("LOCAL_WORLD_SIZE", "1"))
    except ValueError:
        return None
    return World(rank, size, local_rank, local_size) if 0 <= local_rank <= rank < size and local_size >= 1 else None
