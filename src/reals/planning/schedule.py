"""How long jobs take on some devices: list scheduling, longest remaining path first."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

from reals.experiment.stage_table import OF_COMMAND
from reals.planning.cost import Costs, Job
from reals.planning.rates import Rates

ENDLESS = 10**9  # devices


def granted(costs: Costs, job: Job, rates: Rates, devices: int) -> int:
    """How many devices one copy of a job is given: the GPUs its rule asks for, at most what there is."""
    stated = costs.scale.resources_of(job.stage)
    return max(1, min(stated.gpu * stated.nodes, devices)) if rates.threads is None else 1


def devices_of(costs: Costs, job: Job, rates: Rates, devices: int) -> int:
    """How many of those it works on: all of them in the stages that start a process for each, else one."""
    return granted(costs, job, rates, devices) if OF_COMMAND[job.stage].together else 1


@dataclass(frozen=True)
class Unit:
    """One of the ``copies`` equal jobs behind a target: the devices that it is given, and its seconds on them."""

    devices: int
    seconds: float
    copies: int


def schedule(costs: Costs, targets: set[str], rates: Rates, devices: int) -> float:
    """Seconds that these jobs take on ``devices`` (0: on as many as can be used), longest remaining path first.

    A job that uses several devices is taken to be that much faster; queues, start-up and reading are not in it.
    """
    units = {target: _unit(costs, costs.jobs[target], rates, devices or ENDLESS) for target in targets}
    needs = {target: set(costs.jobs[target].needs) & targets for target in targets}
    followers: dict[str, list[str]] = {target: [] for target in targets}
    for target, needed in needs.items():
        for each in needed:
            followers[each].append(target)
    remaining = longest(units, followers)
    return listed(units, needs, followers, remaining, devices) if devices else max(remaining.values(), default=0.0)


def _unit(costs: Costs, job: Job, rates: Rates, devices: int) -> Unit:
    seconds = rates.seconds(job.work) / job.copies / devices_of(costs, job, rates, devices)
    return Unit(granted(costs, job, rates, devices), seconds, job.copies)


def longest(units: Mapping[str, Unit], followers: Mapping[str, list[str]]) -> dict[str, float]:
    """Seconds from the start of each job to the end of the longest path that begins with it."""
    found: dict[str, float] = {}

    def path(target: str) -> float:
        if target not in found:
            found[target] = units[target].seconds + max((path(each) for each in followers[target]), default=0.0)
        return found[target]

    for target in units:
        path(target)
    return found


def listed(
    units: Mapping[str, Unit],
    needs: Mapping[str, set[str]],
    followers: Mapping[str, list[str]],
    remaining: Mapping[str, float],
    devices: int,
) -> float:
    """List scheduling: whenever devices are free, of the jobs that wait for nothing else, the one with the longest path begins."""
    waits = {target: len(needed) for target, needed in needs.items()}
    left = {target: unit.copies for target, unit in units.items()}
    ready = [(-remaining[target], target) for target in sorted(units) if not waits[target] for _ in range(left[target])]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []  # (when it ends, target)
    now, free = 0.0, devices
    while ready or running:
        postponed = []
        while ready and free:
            item = heapq.heappop(ready)
            unit = units[item[1]]
            if unit.devices <= free:
                free -= unit.devices
                heapq.heappush(running, (now + unit.seconds, item[1]))
            else:
                postponed.append(item)
        for item in postponed:
            heapq.heappush(ready, item)
        now, target = heapq.heappop(running)
        free += units[target].devices
        left[target] -= 1
        if left[target]:
            continue
        for follower in followers[target]:
            waits[follower] -= 1
            if not waits[follower]:
                for _ in range(left[follower]):
                    heapq.heappush(ready, (-remaining[follower], follower))
    return now
