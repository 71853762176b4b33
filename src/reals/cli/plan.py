"""`reals plan`: what every job of an experiment costs, and what each table costs given what exists."""

import argparse
import json
import os
from typing import Any

from reals.cli.experiment import add_experiment, experiment_of
from reals.cli.subcommands import Subcommands
from reals.experiment.stage_table import OF_COMMAND

GROUPS = {
    "Data, teachers, extractors": ("data", "teacher", "features", "extractor", "reference"),
    "Autoencoders": ("autoencoder",), "Latent caches": ("latents",), "Runs, by milestone": ("transformer",),
    "Samples": ("sample",), "Evaluations": ("evaluate", "analyse", "downstream"),
}  # fmt: skip
"""Title -> stages whose jobs stand below it; a stage that is in none has its own command as the title."""

NOTE = """\
FLOPs are those of the networks (2 per multiply-add; a training step is three forward passes of what is trained).
Reading images, statistics, start-up and queues are not counted; a job that uses several {unit}s is taken to be that much faster."""


def add(commands: Subcommands) -> None:
    text = "FLOPs, device-hours, wall-clock, disk of every job, and the cost of each table given what exists"
    p = commands.add_parser(
        "plan", help=text, description=text,
        epilog="Rates: those `reals measure` stored in results/measured/, else the stated ones of config/rates.yaml.",
    )  # fmt: skip
    add_experiment(p)
    p.add_argument(
        "--gpu", help="device: one of config/rates.yaml (a100, h100, h200) or one that was measured; without: this machine"
    )
    p.add_argument("--nodes", type=int, default=1, help="nodes to plan for (1)")
    p.add_argument("--per-node", type=int, help="GPUs a node has (8); on a CPU: jobs at a time (cores / threads)")
    p.add_argument("--card", type=float, metavar="GB", help="memory of a GPU (what is known of the device)")
    p.add_argument("--no-memory", action="store_true", help="leave out the memory of GPUs: counting it takes half a minute, once")
    p.add_argument("--json", action="store_true", help="everything as JSON, unrounded, on standard output")
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    from reals.experiment.registry import Registry
    from reals.planning import memory, rates
    from reals.planning.cost import Costs
    from reals.planning.plan import plan_of

    for name in ("nodes", "per_node"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected at least 1")
    experiment = experiment_of(options)
    device = options.gpu or rates.this_device(rates.threads_of(experiment.scale), rates.on_gpus(experiment.scale))
    found = rates.load(device, experiment.scale.name, options.sheets / "rates.yaml", experiment.overrides)
    per_node = options.per_node or (8 if found.threads is None else max(1, (os.cpu_count() or 1) // found.threads))
    registry, gpu_gb = Registry(experiment), options.card or found.memory
    plan = plan_of(Costs(registry), found, options.nodes, per_node)
    if not options.json:
        print(printed(plan), flush=True)  # what follows may take a while
    if found.threads is None and not options.no_memory:
        rows = list(memory.rows(memory.Memory(registry), options.nodes * per_node, gpu_gb))
        if not options.json:
            print(printed_memory(rows, gpu_gb))
        plan |= {"card_gb": gpu_gb, "memory": rows}
    if options.json:
        print(json.dumps(plan, indent=1))


def printed(plan: dict) -> str:
    unit, missing = plan["unit"], plan["missing"]
    devices = plan["nodes"] * plan["per_node"]
    small = plan["from_nothing"]["device_hours"] < 20
    clock, factor = ("min", 60) if small else ("h", 1)
    work, wall = f"{unit}-{clock}", f"wall {clock}"

    def hours(value: float) -> str:
        return f"{value * factor:,.1f}"

    def row(job: dict[str, Any], **first: Any) -> dict[str, Any]:
        return first | {
            "FLOP": f"{job['flops']:.2e}" if job["flops"] else "-", work: hours(job["device_hours"]),
            wall: hours(job["wall_hours"]), "disk GB": f"{job['bytes'] / 1e9:,.2f}",
            "": "made" if job["made"] else "" if job["wanted"] else "not needed",
        }  # fmt: skip

    head = f"{plan['scale']} on {plan['nodes']} x {plan['per_node']} {plan['device']} (rates: {plan['rates']})"
    rates = [
        {
            "work": kind["kind"],
            "precision": kind["precision"],
            "TFLOP/s": f"{kind['tflops']:.3g}",
            work: hours(kind["device_hours"]),
        }
        for kind in plan["work"]
    ]
    lines = [head, aligned(rates)]
    if others := [f"{k['kind']} {k['precision']} (from {k['stand_in']})" for k in plan["work"] if k["stand_in"]]:
        lines.append(
            f"  Without a rate of their own, and derived by the ratio of the peaks: {', '.join(others)}; run `reals measure` again."
        )
    if plan["stated"] and not plan["paper"]:
        lines.append(
            "  These rates are those of the paper's networks; this scale's smaller ones are slower: run `reals measure`."
        )
    if not plan["data"]["known"]:
        lines.append(f"  The images are not counted yet: {plan['data']['images']:,} are assumed.")
    grouped = {command for stages in GROUPS.values() for command in stages}
    own = {command: (command,) for command in OF_COMMAND if command not in grouped}
    for title, stages in (GROUPS | own).items():
        jobs = [j for j in plan["jobs"] if j["stage"] in stages]
        if not jobs:
            continue
        several = len(stages) > 1
        rows = [
            row(j, **({"stage": j["stage"]} if several else {}), name=j["name"], **({"step": j["step"]} if j["step"] else {}))
            for j in jobs
        ]
        rows.append({c: "" for c in rows[0]} | row(_sum(jobs), name=f"all {len(jobs)}") | {wall: "", "": ""})
        lines += ["", title, aligned(rows)]
    tables = [
        {
            "table": t["table"], f"alone {work}": hours(t["alone"]["device_hours"]), wall: hours(t["alone"]["wall_hours"]),
            f"adds {work}": hours(t["adds"]["device_hours"]), f"sum {work}": hours(t["sum"]["device_hours"]),
            f"sum {wall}": hours(t["sum"]["wall_hours"]), "sum disk GB": f"{t['sum']['bytes'] / 1e9:,.1f}",
        }
        for t in plan["tables"]
    ]  # fmt: skip
    whole = plan["from_nothing"]
    lines += [
        "", "Tables given what exists: each alone, then one after the other, the cheapest next", aligned(tables), "",
        f"To make: {missing['flops']:.3g} FLOP, {hours(missing['device_hours'])} {work} in {missing['jobs']:,} jobs, "
        f"{missing['bytes'] / 1e9:,.1f} GB; {hours(missing['wall_hours'])} {clock} on {devices} {unit}{'s' * (devices > 1)}, "
        f"{hours(missing['critical_path_hours'])} {clock} on as many as can be used.",
        *(
            f"On request (snakemake only_{t['table']}), beside all that: {t['adds']['flops']:.3g} FLOP, "
            f"{hours(t['adds']['device_hours'])} {work} in {t['adds']['jobs']:,} jobs." for t in plan["on_request"]
        ),
        f"From nothing: {whole['flops']:.3g} FLOP, {hours(whole['device_hours'])} {work}, {whole['bytes'] / 1e9:,.1f} GB.",
        "", NOTE.format(unit=unit),
    ]  # fmt: skip
    return "\n".join(lines)


def printed_memory(rows: list[dict[str, Any]], card: float | None) -> str:
    """The part of the plan that says what fits on which card; ``card`` is the memory planned for, in GB, where it is known."""
    title = "Memory of each GPU, GB" + (f" (cards of {card:g} GB)" if card else "")
    shown = []
    for row in rows:
        several = f" and {len(row['artefacts']) - 1} more" if len(row["artefacts"]) > 1 else ""
        remedies = [_setting(remedy) for remedy in row["remedies"]]
        verdict = "" if row["fits"] is None else "yes" if row["fits"] else "no; " + (", or ".join(remedies) or _otherwise(row))
        shown.append({
            "": row["what"] + (f": {row['artefacts'][0]}{several}" if row["artefacts"] else ""), "GPUs": row["gpus"],
            "batch": f"{row['of_each']} each", "precision": row["precision"], "GB": f"{row['gb']:.1f}",
            "smallest card": row["card"] or "none", **({"fits": verdict} if card else {}),
        })  # fmt: skip
    note = "An estimate of what a card must hold, on the safe side: tensors, 5% for gaps between them, CUDA's context and workspaces."
    return "\n".join(["", title, aligned(shown), note])


def aligned(rows: list[dict[str, Any]]) -> str:
    """Rows below the names of their keys, aligned on the right; blank where a row lacks a key that another has."""
    keys = dict.fromkeys(key for row in rows for key in row)
    cells = [list(keys), *([str(row.get(key, "")) for key in keys] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  " + " ".join(map(str.rjust, line, widths)) for line in cells)


def _setting(remedy: dict[str, Any]) -> str:
    words = [f"engine.accumulate {remedy['accumulate']}"] * (remedy["accumulate"] > 1)
    return " with ".join([*words, *["engine.checkpoint_blocks"] * remedy["checkpoint_blocks"]])


def _otherwise(row: dict[str, Any]) -> str:
    return "a smaller sampling.batch" if row["stage"] == "sample" else "more GPUs or a larger card"


def _sum(jobs: list[dict]) -> dict:
    return {key: sum(j[key] for j in jobs) for key in ("flops", "device_hours", "wall_hours", "bytes")} | {
        "made": False, "wanted": True,
    }  # fmt: skip
