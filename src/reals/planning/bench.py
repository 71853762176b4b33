"""How fast this device is at the networks of an experiment: matrix products, and steps of training, sampling and encoding."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from reals.experiment.engine import Resources
from reals.method import objectives
from reals.method.models import autoencoder
from reals.method.models import teacher as teachers
from reals.method.models.transformer import Transformer, TransformerConfig, initialise
from reals.planning import flops
from reals.planning.cost import Costs
from reals.training.ema import update_ema

SQUARES = (1024, 2048, 4096)  # sides of the matrices behind the peak
QUICK_PARAMETERS = 2e8  # of the largest transformer that --quick measures
STEP_SECONDS = 2.0  # a batch is cut so that a step should take no longer (on a CPU)

Step = Callable[[], object]
Fitting = Callable[..., int]
Batch = tuple[Tensor, Tensor, Tensor, Tensor]  # latents, classes, times, noise


@dataclass(frozen=True)
class Work:
    """A network at work: the kind of work (`rates.KINDS`), images in a batch, FLOPs of one, and a step of one batch."""

    kind: str
    batch: int
    flops: int
    step: Step


class Bench:
    """Times steps on one device. A CPU with one thread is timed by its own clock, which other processes do not disturb."""

    def __init__(self, device: torch.device, threads: int | None, seconds: float):
        self.device, self.seconds = device, seconds
        self.clock = time.process_time if threads == 1 else time.perf_counter
        self.clock_name = "CPU time of the process" if threads == 1 else "wall-clock"

    def once(self, step: Step) -> float:
        """Seconds of one step."""
        began = self.clock()
        step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return self.clock() - began

    def median(self, step: Step, precision: str) -> float:
        """Seconds of a step: the median over about ``seconds`` after a first one, which counts only where it takes longer."""
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
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    best = 0.0
    for side in SQUARES:
        a, b = (torch.randn(side, side, device=bench.device, dtype=dtype) for _ in range(2))
        seconds = min(bench.once(partial(torch.matmul, a, b)) for _ in range(4))
        best = max(best, 2 * side**3 / max(seconds, 1e-9))
        if seconds > STEP_SECONDS:  # a CPU without a unit for bf16, where the largest would take minutes
            break
    return best


def networks(costs: Costs, bench: Bench, peak: float, quick: bool) -> Iterator[Work]:
    """The work of each network of the experiment, one in memory at a time; ``peak`` is FLOP/s of matrix products."""
    device, scale = bench.device, costs.scale

    def fitting(batch: int, each: int, rule: str | None = None) -> int:
        """The batch of one device; on a CPU no more than should take two seconds a step at a third of the peak."""
        if device.type == "cuda":
            asked = scale.resources_of(rule) if rule else Resources()
            return max(1, batch // max(1, asked.gpu * asked.nodes))
        return max(1, min(batch, int(STEP_SECONDS * peak / 3 / each)))

    yield from _transformers(costs, device, fitting, quick)
    yield from _autoencoder(costs, device, fitting)
    yield from _teacher(costs, device, fitting)


def _transformers(costs: Costs, device: torch.device, fitting: Fitting, quick: bool) -> Iterator[Work]:
    scale, classes = costs.scale, costs.counts.classes
    for size, row in {r.size: r for r in costs.registry.experiment.runs.values() if not r.repa}.items():
        run = costs.registry.runs[row.name]
        spec, counted = run.spec, costs.networks.transformer(run)
        sizes = {
            k: getattr(spec, k) for k in ("width", "depth", "heads", "patch", "latent_channels", "latent_size", "learn_sigma")
        }
        config = TransformerConfig(**sizes, classes=classes, label_dropout=spec.label_dropout)
        if quick and flops.transformer_parameters(counted, classes) > QUICK_PARAMETERS:
            continue
        each, model = flops.transformer_flops(counted), Transformer(config)
        initialise(model, torch.Generator().manual_seed(0))
        model = model.to(device)

        def inputs(batch: int, config: TransformerConfig = config) -> Batch:
            shape = (batch, config.latent_channels, config.latent_size, config.latent_size)
            x, noise = (torch.randn(shape, device=device) for _ in range(2))
            return x, torch.randint(classes, (batch,), device=device), torch.rand(batch, device=device), noise

        batch = fitting(scale.transformer.batch, flops.TRAINED * each, "transformer")
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, fused=True)
        ema, data = [p.detach().clone() for p in parameters], inputs(batch)

        yield Work(f"transformer {size}", batch, flops.TRAINED * each, partial(_train, model, optimizer, ema, parameters, data))
        del optimizer, ema
        batch = fitting(scale.sampling.batch, each)
        x, y, t, _ = inputs(batch)
        model = model.eval().requires_grad_(False)
        yield Work(f"sampling {size}", batch, each, partial(model, x, t, y))


def _train(
    model: Transformer, optimizer: torch.optim.Optimizer, ema: list[Tensor], parameters: list[torch.nn.Parameter], data: Batch
) -> None:
    """One step of SiT's training."""
    optimizer.zero_grad(set_to_none=True)
    objectives.flow_loss(model, *data).total.backward()
    optimizer.step()
    update_ema(ema, parameters, 0.9999)


def _autoencoder(costs: Costs, device: torch.device, fitting: Fitting) -> Iterator[Work]:
    a, resolution = costs.scale.autoencoder, costs.scale.data.resolution
    vae = autoencoder.build(resolution, costs.scale.latent.channels, a.block_out_channels, a.layers_per_block, a.norm_num_groups)
    vae = autoencoder.channels_last(vae, device)
    encode, decode = flops.vae_encoder_flops(costs.networks.vae), flops.vae_decoder_flops(costs.networks.vae)

    def images(batch: int) -> Tensor:
        return torch.rand(batch, 3, resolution, resolution, device=device) * 2 - 1

    optimizer = torch.optim.AdamW(vae.parameters(), lr=a.lr)
    batch = fitting(a.batch, flops.TRAINED * (encode + decode), "autoencoder")

    def tune(x: Tensor) -> None:
        mean, logvar = autoencoder.moments(vae, x)
        loss = (vae.decode(mean).sample - x).square().mean() + 1e-6 * autoencoder.kl_per_image(mean, logvar).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    yield Work("autoencoder", batch, flops.TRAINED * (encode + decode), partial(tune, images(batch)))
    optimizer.zero_grad(set_to_none=True)
    vae = vae.eval().requires_grad_(False)
    batch = fitting(a.batch, encode)
    yield Work("encoding", batch, encode, partial(autoencoder.moments, vae, images(batch)))


def _teacher(costs: Costs, device: torch.device, fitting: Fitting) -> Iterator[Work]:
    """The larger teacher; the plan takes its rate for both."""
    config, grid = costs.scale.teachers["large"], costs.scale.latent_size
    known = (
        {"timm": config.model}
        if config.kind == "timm"
        else {"timm": "", "width": config.width, "depth": config.depth, "heads": config.heads}
    )
    built = teachers.TeacherConfig(patch=config.patch, grid=grid, mean=(0.5,) * 3, std=(0.5,) * 3, **known)
    network = teachers.Teacher(built, teachers.build(built).to(device))
    each = costs.networks.teacher_flops(costs.registry.teachers["large"], grid)
    batch = fitting(costs.scale.autoencoder.batch, each, "autoencoder")
    pixels = torch.rand(batch, 3, grid * config.patch, grid * config.patch, device=device)
    yield Work("sampling teacher", batch, each, partial(network.features, pixels))
