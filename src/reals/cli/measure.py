"""`reals measure`: how fast this machine does the experiment's work, stored for `reals plan`."""

import argparse
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reals.cli.experiment import add_experiment, experiment_of
from reals.cli.subcommands import Subcommands

if TYPE_CHECKING:  # torch is imported where it is used: it takes seconds
    from reals.planning.bench import Timing


def add(commands: Subcommands) -> None:
    text = "measure matrix-product peak and the real steps of training, sampling and encoding on this machine"
    p = commands.add_parser(
        "measure", help=text, description=text,
        epilog="Stores results/measured/<device>.json: `reals plan` takes its rates from there. Other scales' rates in that file "
        "stay. On a CPU the device is a number of threads (those a training job gets at this scale). Steps read the scale's own "
        "prepared data and caches where they exist, else stand-in files in a temporary folder (TMPDIR).",
    )  # fmt: skip
    add_experiment(p)
    p.add_argument(
        "--quick", action="store_true", help="without the largest transformers, whose rates are then those of the others"
    )
    p.add_argument("--seconds", type=float, default=2.0, help="of measuring, per network and precision (2)")
    p.add_argument("--precision", action="append", choices=["fp32", "tf32", "bf16"],
                   help="in place of those that the scale states for each stage; repeatable")  # fmt: skip
    p.add_argument("--threads", type=int, help="on a CPU; without: what the scale gives a training job")
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    import tempfile
    from pathlib import Path

    import torch

    from reals import files
    from reals.experiment.registry import Registry
    from reals.machine import memory
    from reals.planning import bench as benches
    from reals.planning import rates
    from reals.planning.cost import Costs
    from reals.planning.supply import Supply
    from reals.planning.timings import Timings

    experiment = experiment_of(options)
    costs = Costs(Registry(experiment))
    cuda = torch.cuda.is_available() and rates.on_gpus(experiment.scale)
    if cuda and options.threads is not None:
        raise ValueError("--threads: is for a CPU, and this machine's GPU is what is measured; leave it out")
    if not 0 < options.seconds < float("inf"):
        raise ValueError(f"--seconds: got {options.seconds:g}, expected a number above 0")
    threads = None if cuda else options.threads or rates.threads_of(experiment.scale)
    if threads is not None:
        if not 1 <= threads <= (os.cpu_count() or 1):
            raise ValueError(f"--threads {threads}: this machine has {os.cpu_count()}")
        torch.set_num_threads(threads)
    memory.keep_freed()  # as jobs do
    device = rates.this_device(threads or 1, cuda)
    bench = benches.Bench(torch.device("cuda" if cuda else "cpu"), threads, options.seconds)
    asked = tuple(options.precision or ())
    if not cuda and "tf32" in asked:
        raise ValueError("--precision tf32: only GPUs have it")
    print(f"{device}, PyTorch {torch.__version__}", flush=True)
    path = rates.measured_path(device)
    stored = files.read_json(path, "delete it and run this again") if path.exists() else {"scales": {}}
    peaks: dict[str, float] = stored.get("peak_tflops", {})

    def peak(precision: str) -> float:
        """TFLOP/s, found when it is first asked for."""
        if precision not in fresh:
            fresh[precision] = peaks[precision] = benches.peak(bench, precision) / 1e12
            print(f"peak {precision}: {peaks[precision]:.3g} TFLOP/s", flush=True)
        return fresh[precision]

    fresh: dict[str, float] = {}
    tflops: dict[str, dict[str, float]] = {}
    steps: dict[str, dict[str, dict[str, float]]] = {}
    batches: dict[str, int] = {}
    warnings = []
    with tempfile.TemporaryDirectory(prefix="reals-measure-") as folder:
        supply = Supply(costs.registry, Path(folder))
        for found in Timings(costs, bench, supply, peak("fp32") * 1e12, asked, options.quick):
            if isinstance(found, str):
                print(found, flush=True)
                continue
            tflops.setdefault(found.precision, {})[found.kind] = found.rate / 1e12
            steps.setdefault(found.precision, {})[found.kind] = found.record()
            batches[found.kind] = found.batch
            print(described(found, peak(found.precision) * 1e12), flush=True)
            if found.warning:
                warnings.append(found.warning)
    for name, source in supply.said.items():
        print(f"{name} read: {source}")
    for warning in warnings:
        print(f"warning: {warning}", flush=True)
    now = datetime.now(UTC).strftime("%Y-%m-%d")
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "code": files.code_version()}
    stored |= {"device": device, "threads": threads, "date": now, "versions": versions, "peak_tflops": peaks}
    stored["protocol"] = {
        "peak": f"best of square matrix products of side {', '.join(map(str, benches.SQUARES))}",
        "rates": "FLOPs of a step whose data are ready over its median time, in batches as stated; the tasks' own training steps "
        "with every loss they have, the stages' own sampling and encoding",
        "steps": "seconds with data ready; fed_seconds (wall-clock) of steps that read theirs, and the share of those spent waiting",
        "clock": bench.clock_name,
    }
    engine = experiment.scale.engine.model_dump(include={"accumulate", "compile", "checkpoint_blocks", "deterministic"})
    stored["scales"][experiment.scale.name] = {
        "date": now, "quick": options.quick, "batch": batches, "engine": engine, "read": supply.said, "steps": steps, "tflops": tflops,
    }  # fmt: skip
    files.write_json(path, stored)
    print(path)


def described(timing: "Timing", peak: float) -> str:
    """One line; ``peak`` in FLOP/s."""
    from reals.planning.bench import plain

    text = (f"{timing.kind} {timing.precision}: {timing.rate / 1e12:.3g} TFLOP/s, {timing.rate / peak:.0%} of the peak, "
            f"{plain(timing.images)} images/s, batch {timing.batch}, {timing.seconds:.3g} s a step")  # fmt: skip
    if timing.feeding is not None:
        text += f"; reading its data {timing.feeding.seconds:.3g} s of wall-clock, {timing.feeding.waiting:.0%} of it waiting for them"
    if timing.noise is not None:
        text += f"; its noise takes {timing.noise:.2g} s, while the step before runs"
    return text
