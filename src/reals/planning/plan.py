"""The whole plan as plain numbers: what each job, each table and all of it cost, and how long it takes."""

from collections.abc import Iterable
from typing import Any

from reals.planning.cost import Costs, Job
from reals.planning.rates import Kind, Rates
from reals.planning.schedule import devices_of, granted, schedule


def plan_of(costs: Costs, rates: Rates, nodes: int, per_node: int) -> dict[str, Any]:
    """The whole plan as plain numbers: FLOPs, device-hours, hours, bytes."""
    devices, shown = nodes * per_node, costs.graph.shown
    wanted, behind = costs.graph.wanted, costs.graph.behind(t for targets in shown.values() for t in targets)
    hours = {target: rates.seconds(job.work) / 3600 for target, job in costs.jobs.items()}

    def at_once(job: Job) -> int:
        return min(job.copies, max(1, devices // granted(costs, job, rates, devices)))

    jobs = [
        {
            "stage": job.stage, "name": job.name, "step": job.step, "flops": job.flops, "device_hours": hours[target],
            "wall_hours": hours[target] / devices_of(costs, job, rates, devices) / at_once(job),
            "bytes": job.bytes, "made": job.done, "wanted": target in wanted, "target": target,
        }
        for target, job in costs.jobs.items()
    ]  # fmt: skip

    def total(targets: set[str]) -> dict[str, float]:
        among = [job for target, job in costs.jobs.items() if target in targets]  # in the DAG's order, so that sums repeat
        return {"flops": sum(job.flops for job in among), "device_hours": sum(hours[job.target] for job in among),
                "bytes": sum(job.bytes for job in among), "jobs": sum(job.copies for job in among)}  # fmt: skip

    tables: list[dict[str, Any]] = []
    left, have = dict(shown), set[str]()
    while left:  # the cheapest next, given those before it
        name = min(left, key=lambda n: (total(costs.graph.missing(left[n]) - have)["device_hours"], list(shown).index(n)))
        alone = costs.graph.missing(left.pop(name))
        adds, have = total(alone - have), have | alone
        tables.append({
            "table": name, "alone": total(alone) | {"wall_hours": schedule(costs, alone, rates, devices) / 3600}, "adds": adds,
            "sum": total(have) | {"wall_hours": schedule(costs, have, rates, devices) / 3600},
        })  # fmt: skip
    return {
        "scale": costs.scale.name,
        "data": {"images": costs.counts.train, "held_out": costs.counts.held_out, "known": costs.counts.known},
        "device": rates.device, "unit": rates.unit, "rates": rates.source,
        "stated": rates.source.startswith("stated"), "paper": costs.scale.paper,
        "work": _work((costs.jobs[target] for target in costs.jobs if target in behind), rates),
        "nodes": nodes, "per_node": per_node, "jobs": jobs, "tables": tables,
        "on_request": [
            {"table": name, "adds": total(costs.graph.missing(costs.graph.behind_table(name)) - wanted)}
            for name, sheet in costs.registry.experiment.tables.items() if sheet.on_request
        ],
        "missing": total(wanted) | {
            "wall_hours": schedule(costs, wanted, rates, devices) / 3600,
            "critical_path_hours": schedule(costs, wanted, rates, 0) / 3600,
        },
        "from_nothing": total(behind),
    }  # fmt: skip


def _work(jobs: Iterable[Job], rates: Rates) -> list[dict[str, Any]]:
    """Each kind of work of the jobs: its precision, rate and device-hours, and the precision whose rate stands in for its own."""
    flops: dict[Kind, int] = {}
    for job in jobs:
        for kind, count in job.work.items():
            flops[kind] = flops.get(kind, 0) + count
    return [
        {"kind": kind.work, "precision": kind.precision, "tflops": rates.rate(kind) / 1e12,
         "device_hours": rates.seconds({kind: flops[kind]}) / 3600, "stand_in": rates.stand_in(kind)}
        for kind in sorted(flops)
    ]  # fmt: skip
