"""`reals measure`: how fast this machine does the experiment's work, stored for `reals plan`."""

import argparse
import os
import time
from datetime import UTC, datetime
from functools import partial

from reals.cli.experiment import add_experiment, experiment_of
from reals.cli.subcommands import Subcommands

SQUARES = (1024, 2048, 4096)  # sides of the matrices behind the peak
QUICK_PARAMETERS = 2e8  # of the largest transformer that --quick measures
STEP_SECONDS = 2.0  # a batch is cut so that a step should take no longer (on a CPU)


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
    from reals.planning import rates
    from reals.planning.cost import Costs

    experiment = experiment_of(options)
    costs = Costs(Registry(experiment))
    cuda = torch.cuda.is_available()
    threads = None if cuda else options.threads or rates.threads_of(experiment.scale)
    if threads is not None:
        if not 1 <= threads <= (os.cpu_count() or 1):
            raise ValueError(f"--threads {threads}: this machine has {os.cpu_count()}")
        torch.set_num_threads(threads)
    memory.keep_freed()  # as jobs do
    device = rates.this_device(threads or 1)
    bench = Bench(torch.device("cuda" if cuda else "cpu"), threads, options.seconds)
    precisions = tuple(options.precision or (("bf16", "tf32") if cuda else ("fp32", "bf16")))
    if not cuda and "tf32" in precisions:
        raise ValueError("--precision tf32: only GPUs have it")
    print(f"{device}, PyTorch {torch.__version__}", flush=True)
    path = rates.measured_path(device)
    stored = files.read_json(path) if path.exists() else {"scales": {}}
    peaks = stored.get("peak_tflops", {})
    for precision in dict.fromkeys(("fp32", *precisions)):
        peaks[precision] = peak(bench, precision) / 1e12
        print(f"peak {precision}: {peaks[precision]:.3g} TFLOP/s", flush=True)
    tflops: dict[str, dict[str, float]] = {}
    batches: dict[str, int] = {}
    for precision in precisions:
        tflops[precision] = {}
        for work, batch, flops, step in networks(costs, bench, precision, peaks[precision] * 1e12, options.quick):
            rate = flops * batch / bench.median(step, precision)
            tflops[precision][work], batches[work] = rate / 1e12, batch
            mfu = rate / 1e12 / peaks[precision]
            print(f"{work} {precision}: {rate / 1e12:.3g} TFLOP/s, {mfu:.0%} of the peak, "
                  f"{rate / flops:.3g} images/s, batch {batch}", flush=True)  # fmt: skip
    now = datetime.now(UTC).strftime("%Y-%m-%d")
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "code": files.code_version()}
    stored |= {"device": device, "threads": threads, "date": now, "versions": versions, "peak_tflops": peaks}
    stored["protocol"] = {
        "peak": f"best of square matrix products of side {', '.join(map(str, SQUARES))}",
        "rates": "FLOPs of a step over its median time, in batches as stated; a training step is forward, backward, AdamW and, "
        "of transformers, EMA, on random inputs",
        "clock": bench.clock_name,
    }
    stored["scales"][experiment.scale.name] = {"date": now, "quick": options.quick, "batch": batches, "tflops": tflops}
    files.write_json(path, stored)
    print(path)


class Bench:
    """Times steps on one device. A CPU with one thread is timed by its own clock, which other processes do not disturb."""

    def __init__(self, device, threads: int | None, seconds: float):
        self.device, self.seconds = device, seconds
        self.clock = time.process_time if threads == 1 else time.perf_counter
        self.clock_name = "CPU time of the process" if threads == 1 else "wall-clock"

    def once(self, step) -> float:
        import torch

        began = self.clock()
        step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return self.clock() - began

    def median(self, step, precision: str) -> float:
        """Seconds of a step: the median over about ``seconds`` after a first one, which counts only where it takes longer."""
        import torch

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16"):
            first = self.once(step)
            if first > self.seconds:
                return first
            count = min(100, max(2, round(self.seconds / max(first, 1e-6))))
            times = sorted(self.once(step) for _ in range(count))
        return times[len(times) // 2]


def peak(bench: Bench, precision: str) -> float:
    """FLOP/s of the best of some square matrix products."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    best = 0.0
    for side in SQUARES:
        a, b = (torch.randn(side, side, device=bench.device, dtype=dtype) for _ in range(2))
        seconds = min(bench.once(lambda a=a, b=b: a @ b) for _ in range(4))
        best = max(best, 2 * side**3 / max(seconds, 1e-9))
        if seconds > STEP_SECONDS:  # a CPU without a unit for bf16, where the largest would take minutes
            break
    return best


def networks(costs, bench: Bench, precision: str, peak: float, quick: bool):
    """(kind of work, batch, FLOPs an image, step) of each network of the experiment, one in memory at a time."""
    device, scale = bench.device, costs.scale

    def fitting(batch: int, each: int, rule: str | None = None) -> int:
        """The batch of one device; on a CPU no more than should take two seconds a step at a third of the peak."""
        if device.type == "cuda":
            resources = scale.resources.get(rule)
            return max(1, batch // max(1, resources.gpu * getattr(resources, "nodes", 1) if resources else 1))
        return max(1, min(batch, int(STEP_SECONDS * peak / 3 / each)))

    yield from _transformers(costs, device, fitting, quick)
    yield from _autoencoder(costs, device, fitting)
    yield from _teacher(costs, device, fitting)


def _transformers(costs, device, fitting, quick: bool):
    import torch

    from reals.method import objectives
    from reals.method.models.transformer import Transformer, TransformerConfig, initialise
    from reals.planning import flops
    from reals.training.ema import update_ema

    scale, classes = costs.scale, costs.counts.classes
    for size, row in {r.size: r for r in costs.registry.experiment.runs.values() if not r.repa}.items():
        spec = costs.registry.runs[row.name].spec
        sizes = {k: spec[k] for k in ("width", "depth", "heads", "patch", "latent_channels", "latent_size", "learn_sigma")}
        config = TransformerConfig(**sizes, classes=classes, label_dropout=spec["label_dropout"])
        if quick and flops.transformer_parameters(config, classes) > QUICK_PARAMETERS:
            continue
        each, model = flops.transformer_flops(config), Transformer(config)
        initialise(model, torch.Generator().manual_seed(0))
        model = model.to(device)

        def inputs(batch: int, config=config):
            shape = (batch, config.latent_channels, config.latent_size, config.latent_size)
            x, noise = (torch.randn(shape, device=device) for _ in range(2))
            return x, torch.randint(classes, (batch,), device=device), torch.rand(batch, device=device), noise

        batch = fitting(scale.transformer.batch, flops.TRAINED * each, "transformer")
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, fused=True)
        ema, data = [p.detach().clone() for p in parameters], inputs(batch)

        def train(model=model, optimizer=optimizer, ema=ema, parameters=parameters, data=data) -> None:
            optimizer.zero_grad(set_to_none=True)
            objectives.flow_loss(model, *data).total.backward()
            optimizer.step()
            update_ema(ema, parameters, 0.9999)

        yield f"transformer {size}", batch, flops.TRAINED * each, train
        del optimizer, ema, train
        batch = fitting(scale.sampling.batch, each)
        x, y, t, _ = inputs(batch)
        model = model.eval().requires_grad_(False)
        yield f"sampling {size}", batch, each, lambda model=model, x=x, t=t, y=y: model(x, t, y)


def _autoencoder(costs, device, fitting):
    import torch

    from reals.method.models import autoencoder
    from reals.planning import flops

    a, resolution = costs.scale.autoencoder, costs.scale.data.resolution
    vae = autoencoder.build(resolution, costs.scale.latent.channels, a.block_out_channels, a.layers_per_block, a.norm_num_groups)
    vae = vae.to(device, memory_format=torch.channels_last)
    encode, decode = flops.vae_encoder_flops(costs.vae), flops.vae_decoder_flops(costs.vae)

    def images(batch: int):
        return torch.rand(batch, 3, resolution, resolution, device=device) * 2 - 1

    optimizer = torch.optim.AdamW(vae.parameters(), lr=a.lr)
    batch = fitting(a.batch, flops.TRAINED * (encode + decode), "autoencoder")

    def tune(x) -> None:
        mean, logvar = autoencoder.moments(vae, x)
        loss = (vae.decode(mean).sample - x).square().mean() + 1e-6 * autoencoder.kl_per_image(mean, logvar).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    yield "autoencoder", batch, flops.TRAINED * (encode + decode), partial(tune, images(batch))
    optimizer.zero_grad(set_to_none=True)
    vae = vae.eval().requires_grad_(False)
    batch = fitting(a.batch, encode)
    yield "encoding", batch, encode, partial(autoencoder.moments, vae, images(batch))


def _teacher(costs, device, fitting):
    """The larger teacher; the plan takes its rate for both."""
    import torch

    from reals.method.models import teacher as teachers

    config, grid = costs.scale.teachers["large"], costs.scale.latent_size
    known = (
        {"timm": config.model}
        if config.kind == "timm"
        else {"timm": "", "width": config.width, "depth": config.depth, "heads": config.heads}
    )
    built = teachers.TeacherConfig(patch=config.patch, grid=grid, mean=(0.5,) * 3, std=(0.5,) * 3, **known)
    network = teachers.Teacher(built, teachers.build(built).to(device))
    each = costs.teacher_flops(costs.registry.teachers["large"], grid)
    batch = fitting(costs.scale.autoencoder.batch, each, "autoencoder")
    pixels = torch.rand(batch, 3, grid * config.patch, grid * config.patch, device=device)
    yield "sampling teacher", batch, each, partial(network.features, pixels)
