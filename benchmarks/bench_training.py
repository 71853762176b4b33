"""A real training step of SiT beside the plainest equivalent loop on diffusers' DiTTransformer2DModel: same work, same run.

    python benchmarks/bench_training.py [--model B/2] [--batch 16] [--threads 1] [--rounds 3] [--compile] [--clock cpu]

A step loads latents and flips them, draws posterior, noise, times and dropped labels, runs forward and backward, AdamW
(fused for all) and the EMA; ours also measures the gradient's norm and makes the next batch in a thread. The arms take
turns in one process; medians and ranges are printed. `--clock cpu` counts CPU seconds a thread, all threads of the process
included, for a machine that others use too. Then: what a step spends outside forward and backward, and the loader alone
against what the step, and what a GPU at a stated rate, consumes.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from bench_transformer import GMAC, linear_rate, ours, peak, row, seconds, theirs
from torch import nn

from reals import rng
from reals.data import cache
from reals.data.readers import Latents, latent_layout
from reals.experiment.specs import RunSpec
from reals.training.processes import Processes
from reals.training.tasks.transformer import TransformerTask

IMAGES, CLASSES = 4096, 1000
SCALE, LR, EMA, DROPOUT = 0.18215, 1e-4, 0.9999, 0.1
GPU_STEPS, GPU_BATCH, GPUS = 8.0, 32, 8  # the stated rate: 8 steps a second of 32 images on each of 8 GPUs
LOG_EVERY = 10
ROUNDS_OF_THE_LOADER = 20


def write_cache(folder: Path) -> None:
    """Random moments of both flips in the format of stage `latents`, in one shard."""
    moments = (torch.randn(IMAGES, 2, 8, 32, 32, generator=rng.generator(0, "moments")) * 0.5).half().numpy()

    def compute(span: range, put: cache.Put) -> dict:
        put(moments=moments[span.start : span.stop])
        return {}

    planned = latent_layout(IMAGES, 4, 32)
    assert len(planned) == 1
    cache.make(
        folder, planned, {"id": folder.name, "autoencoder": "none"}, compute, lambda facts: {"scaling_factor": SCALE}, "latents"
    )


def plain(model: nn.Module, folder: Path, batch: int) -> Callable[[], None]:
    """The loop as one writes it first: global random numbers, batch made in the step, a loop over parameters for the EMA."""
    moments = np.load(folder / "moments_00000.npy", mmap_mode="r")
    labels = torch.arange(IMAGES) % CLASSES
    ema = deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0, fused=True)

    def step() -> None:
        indices = torch.randint(0, IMAGES, (batch,))
        flips = torch.randint(0, 2, (batch,))
        mean, logvar = torch.from_numpy(moments[indices.numpy(), flips.numpy()]).float().chunk(2, dim=1)
        x = (mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)) * SCALE
        y = torch.where(torch.rand(batch) < DROPOUT, CLASSES, labels[indices])
        noise, t = torch.randn_like(x), torch.rand(batch)
        s = t[:, None, None, None]
        out = model(s * x + (1 - s) * noise, timestep=t, class_labels=y).sample
        loss = F.mse_loss(out[:, :4], x - noise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for e, p in zip(ema.parameters(), model.parameters(), strict=True):
                e.mul_(EMA).add_(p, alpha=1 - EMA)

    return step


def real(name: str, folder: Path, batch: int, precision: str, compiled: bool) -> TransformerTask:
    """Our task on the cache, as stage `transformer` makes it."""
    spec = RunSpec(
        latents="", features=None, teacher=None, family="SiT", patch=2, width=768, depth=12, heads=12, latent_channels=4,
        latent_size=32, batch=batch, lr=LR, ema=EMA, precision=None, label_dropout=DROPOUT, learn_sigma=True, flip=True, seed=0,
        repa=None, interpolant=None, scaling_factor=None, times=None,
    )  # fmt: skip
    labels = torch.arange(IMAGES) % CLASSES
    return TransformerTask(spec, ours(name).train(), Latents(folder), labels, Processes(precision, compiled=compiled))


def stepper(task: TransformerTask) -> Callable[[], None]:
    count = iter(range(10**9))

    def step() -> None:
        task.update(next(count))

    return step


def outside(task: TransformerTask, rounds: int, clock: str) -> None:
    """What a step spends outside forward and backward: the whole step less gradients on a batch that is there."""
    batch = task.batch(0)

    def gradients() -> None:
        task.gradient(batch)
        task.optimizer.zero_grad(set_to_none=True)

    times = seconds({"step": stepper(task), "gradients": gradients, "log": task.extras}, rounds, clock)
    median = {name: statistics.median(t) for name, t in times.items()}
    # Parts by themselves: their difference is within the noise of a step on a shared machine.
    parts = seconds({"batch": lambda: task.batch(1), "update": lambda: update(task)}, rounds, clock)
    loading, updating = (statistics.median(parts[name]) for name in ("batch", "update"))
    logging = median["log"] / LOG_EVERY
    share = (loading + updating + logging) / (median["gradients"] + loading + updating + logging)
    print(
        f"  {median['step']:.3f} s a step, {median['gradients']:.3f} s of it forward and backward; batch {loading:.4f} s, "
        f"norm, AdamW and EMA {updating:.4f} s, log {logging:.4f} s: {share:.1%} outside forward and backward"
    )


def update(task: TransformerTask) -> None:
    """All of a step that follows the gradients."""
    from reals.training.ema import update_ema

    for parameter in task.model.parameters():
        if parameter.requires_grad:
            parameter.grad = parameter.detach()
    task.processes.step(task.optimizer)
    update_ema(list(task.ema.values()), task.weights, EMA)


def loader(task: TransformerTask, batch: int, step_seconds: float) -> None:
    """The loader alone, one thread: here, and as one process of the stated GPU job."""

    def rate(rows: int) -> float:
        began, cpu = time.perf_counter(), time.process_time()
        for step in range(ROUNDS_OF_THE_LOADER):
            task.batch(step)
        used = min(time.perf_counter() - began, time.process_time() - cpu)
        return rows * ROUNDS_OF_THE_LOADER / used

    here, consumed = rate(batch), batch / step_seconds
    print(f"  here: {here:,.0f} images/s, the step consumes {consumed:,.1f}: {here / consumed:,.0f} times")
    task.spec = replace(task.spec, batch=GPU_BATCH * GPUS)
    task.rows = slice(GPU_BATCH * (GPUS - 1), GPU_BATCH * GPUS)
    bytes_each = np.dtype(np.float16).itemsize * 8 * 32 * 32
    needed = GPU_STEPS * GPU_BATCH
    there = rate(GPU_BATCH)
    print(
        f"  one of {GPUS} GPUs at {GPU_STEPS:g} steps/s x {GPU_BATCH} images needs {needed:,.0f} images/s = "
        f"{needed * bytes_each / 1e6:.1f} MB/s; its loader (which draws for the global batch of {GPU_BATCH * GPUS}) delivers "
        f"{there:,.0f} images/s = {there * bytes_each / 1e6:,.0f} MB/s: {there / needed:,.1f} times"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="B/2", choices=GMAC)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--compile", action="store_true", help="torch.compile in the recommended arm")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    limits = {"fp32": peak(torch.float32, options.clock), "bf16": peak(torch.bfloat16, options.clock)}
    fast = limits["bf16"] > 1.2 * limits["fp32"]
    print(
        f"SiT-{options.model}, batch {options.batch}, {options.threads} thread(s), {options.clock} time; matmul peak: "
        f"fp32 {limits['fp32']:.0f}, bf16 {limits['bf16']:.0f} GMAC/s; recommended: {'bf16' if fast else 'fp32'}"
        f"{', torch.compile' if options.compile else ''}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cache(folder)
        tasks = {"ours fp32": real(options.model, folder, options.batch, "fp32", False)}
        if fast or options.compile:
            tasks["ours recommended"] = real(options.model, folder, options.batch, "bf16" if fast else "fp32", options.compile)
        arms = {"plain diffusers": plain(theirs(ours(options.model)).train(), folder, options.batch)}
        arms |= {arm: stepper(task) for arm, task in tasks.items()}
        times = seconds(arms, options.rounds, options.clock)
        base = statistics.median(times["plain diffusers"])
        print("\nreal step")
        for arm in arms:
            limit = limits["bf16" if fast and arm == "ours recommended" else "fp32"]
            row(arm, times[arm], options.batch, 3 * GMAC[options.model], limit, None, base)
        print("\nlinear layers of a block alone, forward and backward")
        for arm in tasks:
            bf16 = fast and arm == "ours recommended"
            found, limit = linear_rate(options.model, options.batch, bf16, options.clock), limits["bf16" if bf16 else "fp32"]
            print(f"  {arm:34} {found:.0f} of {limit:.0f} GMAC/s: {found / limit:.0%} of peak")
        del arms
        print("\noutside forward and backward")
        for arm, task in tasks.items():
            print(f" {arm}")
            outside(task, options.rounds, options.clock)
        fastest = min(statistics.median(times[arm]) for arm in tasks)
        print("\nloader alone, one thread")
        loader(tasks["ours fp32"], options.batch, fastest)


if __name__ == "__main__":
    main()
