"""`reals measure`: how fast this machine does the experiment's work, stored for `reals plan`."""

import argparse
import os
from datetime import UTC, datetime

from reals.cli.experiment import add_experiment, experiment_of
from reals.cli.subcommands import Subcommands


def add(commands: Subcommands) -> None:
    text = "measure matrix-product peak and real rates of training, sampling, encoding and teacher on this machine"
    p = commands.add_parser(
        "measure", help=text, description=text,
        epilog="Stores results/measured/<device>.json: `reals plan` takes its rates from there. Other "
        "scales' rates in that file stay. On a CPU the device is a number of threads (those a training job gets at this scale).",
    )  # fmt: skip
    add_experiment(p)
    p.add_argument(
        "--quick", action="store_true", help="without the largest transformers, whose rates are then those of the others"
    )
    p.add_argument("--seconds", type=float, default=2.0, help="of measuring, per network and precision (2)")
    p.add_argument("--precision", action="append", choices=["fp32", "tf32", "bf16"],
                   help="repeatable; first is the plan's default (bf16 and tf32 on a GPU, fp32 and bf16 on a CPU)")  # fmt: skip
    p.add_argument("--threads", type=int, help="on a CPU; without: what the scale gives a training job")
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    import torch

    from reals import files
    from reals.experiment.registry import Registry
    from reals.machine import memory
    from reals.planning import bench as benches
    from reals.planning import rates
    from reals.planning.cost import Costs

    experiment = experiment_of(options)
    costs = Costs(Registry(experiment))
    cuda = torch.cuda.is_available() and rates.on_gpus(experiment.scale)
    threads = None if cuda else options.threads or rates.threads_of(experiment.scale)
    if threads is not None:
        if not 1 <= threads <= (os.cpu_count() or 1):
            raise ValueError(f"--threads {threads}: this machine has {os.cpu_count()}")
        torch.set_num_threads(threads)
    memory.keep_freed()  # as jobs do
    device = rates.this_device(threads or 1, cuda)
    bench = benches.Bench(torch.device("cuda" if cuda else "cpu"), threads, options.seconds)
    precisions = tuple(options.precision or (("bf16", "tf32") if cuda else ("fp32", "bf16")))
    if not cuda and "tf32" in precisions:
        raise ValueError("--precision tf32: only GPUs have it")
    print(f"{device}, PyTorch {torch.__version__}", flush=True)
    path = rates.measured_path(device)
    stored = files.read_json(path) if path.exists() else {"scales": {}}
    peaks = stored.get("peak_tflops", {})
    for precision in dict.fromkeys(("fp32", *precisions)):
        peaks[precision] = benches.peak(bench, precision) / 1e12
        print(f"peak {precision}: {peaks[precision]:.3g} TFLOP/s", flush=True)
    tflops: dict[str, dict[str, float]] = {}
    batches: dict[str, int] = {}
    for precision in precisions:
        tflops[precision] = {}
        for work in benches.networks(costs, bench, peaks[precision] * 1e12, options.quick):
            rate = work.flops * work.batch / bench.median(work.step, precision)
            tflops[precision][work.kind], batches[work.kind] = rate / 1e12, work.batch
            mfu = rate / 1e12 / peaks[precision]
            print(f"{work.kind} {precision}: {rate / 1e12:.3g} TFLOP/s, {mfu:.0%} of the peak, "
                  f"{rate / work.flops:.3g} images/s, batch {work.batch}", flush=True)  # fmt: skip
    now = datetime.now(UTC).strftime("%Y-%m-%d")
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "code": files.code_version()}
    stored |= {"device": device, "threads": threads, "date": now, "versions": versions, "peak_tflops": peaks}
    stored["protocol"] = {
        "peak": f"best of square matrix products of side {', '.join(map(str, benches.SQUARES))}",
        "rates": "FLOPs of a step over its median time, in batches as stated; a training step is forward, backward, AdamW and, "
        "of transformers, EMA, on random inputs",
        "clock": bench.clock_name,
    }
    stored["scales"][experiment.scale.name] = {"date": now, "quick": options.quick, "batch": batches, "tflops": tflops}
    files.write_json(path, stored)
    print(path)
