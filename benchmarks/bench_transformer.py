"""Our transformer beside diffusers' DiTTransformer2DModel: same weights, same inputs, same run, this CPU.

    python benchmarks/bench_transformer.py [--models B/2 XL/2] [--threads 1] [--rounds 3] [--eager] [--clock cpu]

The networks share their weights' memory and take turns in one process; peak memory is taken in a process each. Before anything
is timed the outputs must agree. Recommended is bf16 products where the CPU has them in hardware, torch.compile of the blocks
(`--eager`: not) and the guidance interval. `--clock cpu` counts CPU seconds a thread, for a machine that others use too.
XL/2 trains without the optimizer, for all alike: AdamW's state of both would take 22 GB. diffusers' own time embedding divides by 127
where DiT divides by 128; the benchmark sets it to DiT's, or the outputs of official weights would differ. 250 steps are
extrapolated from single ones.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from reals import rng
from reals.method import guidance
from reals.method.models.bf16 import Linear
from reals.method.models.transformer import FULL_SIZES, Transformer, TransformerConfig, initialise
from reals.method.sampling import InPrecision

GMAC = {"S/2": 6.06, "B/2": 23.01, "L/2": 80.70, "XL/2": 118.62}  # a forward pass of one image, 256 tokens
SCALE, INTERVAL, STEPS, GUIDED = 1.5, (0.0, 0.75), 250, 185  # guided evaluations of 250 with this interval
ARMS = ("diffusers", "ours fp32", "ours fp32 compiled", "ours recommended")
BATCHES = {"S/2": 16, "B/2": 8, "L/2": 2, "XL/2": 2}
UPDATED = ("S/2", "B/2")  # trained with AdamW
SLOW = 5.0  # seconds of one small product: this CPU has no unit for the type, and the rest would take half an hour


def ours(name: str) -> Transformer:
    width, depth, heads = FULL_SIZES[name.split("/")[0]]
    config = TransformerConfig(
        width=width, depth=depth, heads=heads, patch=2, latent_channels=4, latent_size=32, classes=1000, learn_sigma=True
    )
    model, generator = Transformer(config), rng.generator(0, "weights")
    initialise(model, generator)
    with torch.no_grad():  # adaLN and the head start at zero: make them count
        for key, parameter in model.named_parameters():
            if "adaLN" in key or "final_layer" in key:
                parameter.normal_(std=0.02, generator=generator)
    return model.eval()


def twin(model: Transformer) -> Transformer:
    """Another network on the same weights, to be compiled."""
    with torch.device("meta"):
        other = Transformer(model.config)
    other.load_state_dict(model.state_dict(), assign=True)
    return other.eval()


def theirs(model: Transformer) -> nn.Module:
    """diffusers' network on our weights; every block has its own time and label embedding, as it makes them."""
    from diffusers import DiTTransformer2DModel

    c, state = model.config, model.state_dict()
    other = DiTTransformer2DModel(
        num_attention_heads=c.heads, attention_head_dim=c.width // c.heads, in_channels=4, out_channels=8, num_layers=c.depth,
        sample_size=32, patch_size=2, num_embeds_ada_norm=1000,
    )  # fmt: skip
    mapped = {}

    def take(to: str, source: str, rows: slice = slice(None)) -> None:
        for kind in ("weight", "bias"):
            mapped[f"{to}.{kind}"] = state[f"{source}.{kind}"][rows]

    take("pos_embed.proj", "x_embedder.proj")
    take("proj_out_1", "final_layer.adaLN_modulation.1")
    take("proj_out_2", "final_layer.linear")
    for i in range(c.depth):
        there, here = f"transformer_blocks.{i}", f"blocks.{i}"
        take(f"{there}.norm1.emb.timestep_embedder.linear_1", "t_embedder.mlp.0")
        take(f"{there}.norm1.emb.timestep_embedder.linear_2", "t_embedder.mlp.2")
        mapped[f"{there}.norm1.emb.class_embedder.embedding_table.weight"] = state["y_embedder.embedding_table.weight"]
        take(f"{there}.norm1.linear", f"{here}.adaLN_modulation.1")
        for part, letter in enumerate("qkv"):
            take(f"{there}.attn1.to_{letter}", f"{here}.attn.qkv", slice(part * c.width, (part + 1) * c.width))
        take(f"{there}.attn1.to_out.0", f"{here}.attn.proj")
        take(f"{there}.ff.net.0.proj", f"{here}.mlp.fc1")
        take(f"{there}.ff.net.2", f"{here}.mlp.fc2")
    missing, unknown = other.load_state_dict(mapped, strict=False, assign=True)
    assert not unknown and all("pos_embed.pos_embed" in key for key in missing), (missing, unknown)
    for block in other.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return other.eval()


def inputs(batch: int):
    x = torch.randn(batch, 4, 32, 32, generator=rng.generator(0, "x"))
    return x, torch.full((batch,), 400), torch.arange(batch) * 100


def check(mine: Transformer, other: nn.Module) -> float:
    """Largest difference of the two outputs, relative to the largest output; refuses to go on above 1e-4."""
    x, t, y = inputs(2)
    with torch.no_grad():
        a, b = mine(x, t, y), other(x, timestep=t, class_labels=y).sample
    difference = float((a - b).abs().max() / b.abs().max())
    assert difference < 1e-4, f"the networks disagree by {difference}"
    return difference


def trainer(arm: str, model: nn.Module, batch: int, update: bool) -> Callable[[], None]:
    """One step: forward, loss, backward and, with `update`, AdamW."""
    x, t, y = inputs(batch)
    # Fused for all: the default is slower and takes more memory, and is not what is compared.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=arm == "ours recommended"):
            out = model(x, timestep=t, class_labels=y).sample if arm == "diffusers" else model(x, t, y)
            loss = (out[:, :4].float() - x).square().mean()
        loss.backward()
        if update:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def diffusers_step(model: nn.Module, batch: int) -> Callable[[], None]:
    """One iteration of DiTPipeline's loop: doubled batch, guidance on all channels, DDIM scheduler."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(num_train_timesteps=1000, clip_sample=False)
    scheduler.set_timesteps(STEPS)
    x, _, y = inputs(batch)
    both = torch.cat([y, torch.full_like(y, 1000)])

    @torch.no_grad()
    def step() -> None:
        doubled = torch.cat([x, x])
        time = scheduler.timesteps[100]
        out = model(doubled, timestep=time.expand(len(doubled)), class_labels=both).sample
        noise, rest = out[:, :4], out[:, 4:]
        conditional, unconditional = noise.chunk(2)
        half = unconditional + SCALE * (conditional - unconditional)
        out = torch.cat([torch.cat([half, half]), rest], dim=1)
        scheduler.step(out[:, :4], time, doubled).prev_sample  # noqa: B018

    return step


def our_step(network: nn.Module, batch: int, guided: bool) -> Callable[[], None]:
    """One evaluation of our SDE sampler's field, inside the guidance interval or outside."""
    x, _, y = inputs(batch)
    field = guidance.guided(network, y, SCALE, null=1000, channels="all", interval=INTERVAL)

    @torch.no_grad()
    def step() -> None:
        v = field(x, 0.6 if guided else 0.1)
        x.add(v, alpha=0.004)

    return step


def seconds(steps: dict[str, Callable[[], None]], rounds: int, clock: str) -> dict[str, list[float]]:
    """Time of each, taking turns; the first two turns warm up (a compiled backward is compiled in the first) and do not count."""
    now = {"wall": time.perf_counter, "cpu": lambda: time.process_time() / torch.get_num_threads()}[clock]
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 2):
        for name, step in steps.items():
            began = now()
            step()
            if turn > 1:
                times[name].append(now() - began)
    return times


def rate(gmac: float, step: Callable[[], object], clock: str) -> float:
    """Multiply-adds per second (in 1e9), the best of 10."""
    return gmac / min(seconds({"": step}, 10, clock)[""])


def peak(dtype: torch.dtype, clock: str) -> float:
    """The best rate of plain products, large and of the models' sizes."""
    rates = []
    for rows, inner, outer in ((2048, 768, 3072), (2048, 2048, 2048), (2048, 1152, 4608), (2048, 4096, 4096)):
        a, b = torch.randn(rows, inner).to(dtype), torch.randn(inner, outer).to(dtype)
        began = time.perf_counter()
        a @ b
        if (took := time.perf_counter() - began) > SLOW:
            return rows * inner * outer / 1e9 / took
        rates.append(rate(rows * inner * outer / 1e9, lambda a=a, b=b: a @ b, clock))
    return max(rates)


def linear_rate(name: str, batch: int, bf16: bool, clock: str) -> float:
    """The rate of a block's four linear layers, forward and backward, casts of float32 weights and gradients included."""
    width, tokens = FULL_SIZES[name.split("/")[0]][0], 256 * batch
    done = spent = 0.0
    for inner, outer in ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)):
        layer, x, slope = Linear(inner, outer), torch.randn(tokens, inner, requires_grad=True), torch.randn(tokens, outer)
        if bf16:
            x, slope = x.detach().bfloat16().requires_grad_(), slope.bfloat16()

        def step(layer=layer, x=x, slope=slope) -> None:
            layer.zero_grad(set_to_none=True)
            x.grad = None
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                out = layer(x)
            out.backward(slope)

        gmac = 3 * tokens * inner * outer / 1e9
        done, spent = done + gmac, spent + gmac / rate(gmac, step, clock)
    return done / spent


def memory(arm: str, name: str, task: str, batch: int) -> float:
    """Peak resident memory (GB) of two steps, not compiled."""
    model = ours(name)
    if arm == "diffusers":
        model = theirs(model)
    if task == "train":
        step = trainer(arm, model, batch, name in UPDATED)
    elif arm == "diffusers":
        step = diffusers_step(model, batch)
    else:
        step = our_step(InPrecision(model, "bf16") if arm == "ours recommended" else model, batch, guided=True)
    for _ in range(2):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def child(options: argparse.Namespace, *job) -> float:
    call = [sys.executable, __file__, "--threads", str(options.threads), "--child", *map(str, job)]
    return float(subprocess.run(call, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])


def row(label: str, times: list[float], images: int, gmac: float, limit: float, gb: float | None, base: float) -> None:
    median = statistics.median(times)
    share = gmac * images / median / limit
    print(
        f"  {label:34} {median:8.3f} s  (range {min(times):.3f} to {max(times):.3f})  {images / median:8.3f} images/s  "
        f"x{base / median:5.2f}  {share:4.0%} of peak" + (f"  {gb:5.2f} GB" if gb is not None else ""), flush=True,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["B/2", "XL/2"], choices=GMAC)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, help="images a step (S/2 16, B/2 8, L/2 and XL/2 2)")
    parser.add_argument("--tasks", nargs="+", default=["train", "sample"], choices=["train", "sample"])
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        arm, name, task, batch = options.child
        print(memory(arm, name, task, int(batch)))
        return
    limits = {"fp32": peak(torch.float32, options.clock), "bf16": peak(torch.bfloat16, options.clock)}
    print(
        f"{options.threads} thread(s), {options.clock} time; matmul peak: fp32 {limits['fp32']:.0f}, bf16 {limits['bf16']:.0f} GMAC/s"
    )
    fast = limits["bf16"] > 1.2 * limits["fp32"]
    arms = [arm for arm in ARMS if (fast or arm != "ours recommended") and not (options.eager and "compiled" in arm)]
    limit = {arm: limits["bf16" if arm == "ours recommended" else "fp32"] for arm in arms}
    compiled = "" if options.eager else ", torch.compile"
    print(f"recommended here: {'bf16 products' if fast else 'fp32'}{compiled}, guidance interval", flush=True)
    for name in options.models:
        gmac, batch = GMAC[name], options.batch or BATCHES[name]
        used = {  # before this process takes memory of its own
            (arm, task): None if options.no_memory or "compiled" in arm else child(options, arm, name, task, batch)
            for task in options.tasks for arm in arms
        }  # fmt: skip
        mine = ours(name)
        nets = {arm: theirs(mine) if arm == "diffusers" else twin(mine) for arm in arms}
        print(f"\n{name}: outputs agree to {check(mine, nets['diffusers']):.1e} of the largest")
        for arm in arms:
            if not options.eager and arm in ("ours fp32 compiled", "ours recommended"):
                nets[arm].compile()
        for kind in ["fp32", "bf16"][: 1 + fast] if "train" in options.tasks else []:
            print(
                f" linear layers forward and backward, {kind}: {linear_rate(name, batch, kind == 'bf16', options.clock) / limits[kind]:.0%} of peak"
            )
        if "train" in options.tasks:
            print(f" training step{'' if name in UPDATED else ' without AdamW'}, batch {batch}")
            steps = {arm: trainer(arm, nets[arm], batch, name in UPDATED) for arm in arms}
            times = seconds(steps, options.rounds, options.clock)
            base = statistics.median(times["diffusers"])
            for arm in arms:
                row(arm, times[arm], batch, 3 * gmac, limit[arm], used[arm, "train"], base)
            del steps
        if "sample" in options.tasks:
            sample(name, mine, nets, batch, limit, used, options)
        del mine, nets


def sample(name: str, mine: Transformer, nets: dict, batch: int, limit: dict, used: dict, options: argparse.Namespace) -> None:
    print(f" guided evaluation, {batch} images")
    steps = {"diffusers": diffusers_step(nets["diffusers"], batch)}
    steps |= {arm: our_step(nets[arm], batch, True) for arm in nets if arm.startswith("ours fp32")}
    if "ours recommended" in nets:
        quick = InPrecision(ours(name), "bf16")
        if not options.eager:
            quick.compile()
        steps |= {"ours recommended": our_step(quick, batch, True), "unguided": our_step(quick, batch, False)}
    times = seconds(steps, options.rounds, options.clock)
    base = statistics.median(times["diffusers"])
    for arm in nets:
        row(arm, times[arm], batch, 2 * GMAC[name], limit[arm], used[arm, "sample"], base)
    print(f" {STEPS} guided steps, {batch} images (extrapolated; recommended guides {GUIDED} of them, interval {list(INTERVAL)})")
    for arm in nets:
        guided = statistics.median(times[arm])
        total = STEPS * guided
        if arm == "ours recommended":
            total = GUIDED * guided + (STEPS - GUIDED) * statistics.median(times["unguided"])
        print(f"  {arm:34} {total:8.1f} s  {batch / total:8.4f} images/s  x{STEPS * base / total:5.2f}", flush=True)


if __name__ == "__main__":
    main()
