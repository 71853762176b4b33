"""The autoencoder's step at the paper's size: a proof that it runs and what it needs, and its speed beside plain diffusers.

    python benchmarks/bench_autoencoder.py --proof [--threads 1]
    python benchmarks/bench_autoencoder.py [--resolution 256] [--batch 1] [--rounds 3] [--threads 1] [--clock cpu]

SD-VAE's configuration, DINOv2-large-reg's, VGG-16 under LPIPS and the PatchGAN, all with random weights: shapes, counts, gradients and
cost do not depend on them. `--proof` makes one whole step at 256x256 (about 7 GB) and prints what a GPU needs for one image. Without it
a step and an encoding are timed, arms taking turns in one process, beside the same work written plainly on diffusers in float32;
memory is that of one process an arm. `--clock cpu` counts CPU seconds a thread, for a machine that others use too.
"""

import argparse
import copy
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reals import rng
from reals.experiment.specs import AlignSpec, GanSpec, LpipsSpec, TrainedAutoencoderSpec
from reals.method import alignment
from reals.method.models import autoencoder as models
from reals.method.models import teacher as teachers
from reals.method.models.lpips import lpips_network
from reals.training.processes import Processes
from reals.training.tasks.autoencoder import AutoencoderTask

VAE_PARAMETERS, TEACHER_PARAMETERS, DISCRIMINATOR_PARAMETERS = 83_653_863, 304_370_688, 2_765_633
PEAK_GB = 12.0
SPEC = TrainedAutoencoderSpec(  # config/scales/imagenet256.yaml with the default preset
    data="", features=None, teacher="", latent_channels=4, block_out_channels=(128, 256, 512, 512), layers_per_block=2,
    norm_num_groups=32, pixel="mse", lambda_p=1.0, lambda_g=0.1, gan_weight="constant", betas=(0.9, 0.95), weight_decay=0.0,
    grad_clip=1.0, flip=True, gan=GanSpec(start=0, ramp=0, channels=64, layers=3),
    lpips=LpipsSpec(net="vgg", backbone="random", precision=None), ema=None, scale_images=1, seed=0, precision=None, init=None, unit_scale=None,
    steps=200_180, batch=1, lr=5e-5, lambda_k=2e-5,
    equivariance=None, normalise=None, align=AlignSpec(
        patch=True, cls=True, layers=2, hidden=1024, lambda_a=1.0, lambda_1=0.9, lambda_2=0.1, smooth_l1_beta=1.0,
        balance="constant", cells=None,
    ),
)  # fmt: skip
ARMS = ("plain diffusers fp32", "ours fp32", "ours bf16")


class Pictures:
    """Random images in place of a data set: nothing here depends on what they show."""

    def __init__(self, resolution: int, n: int = 8):
        self.pixels = np.random.default_rng(0).integers(0, 256, (n, 3, resolution, resolution), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices, flips=None) -> np.ndarray:
        return self.pixels[np.asarray(indices)]


def networks(resolution: int) -> tuple[nn.Module, alignment.AlignNetworks, teachers.Teacher, nn.Module]:
    vae = models.build(resolution, 4, SPEC.block_out_channels, 2, 32)
    models.initialise(vae, 0)
    align = alignment.AlignNetworks(4, 1024, 2, 1024, patch=True, cls=True)
    alignment.initialise(align, rng.generator(0, "align"))
    config = teachers.TeacherConfig(
        "vit_large_patch14_reg4_dinov2.lvd142m", 14, resolution // 8, teachers.IMAGENET_MEAN, teachers.IMAGENET_STD
    )
    return vae, align, teachers.Teacher(config, teachers.build(config)), lpips_network("vgg", "random", None)


def task(resolution: int, batch: int, precision: str, parts=None) -> AutoencoderTask:
    vae, align, teacher, lpips = parts or networks(resolution)

    def features(indices, flips, pixels: Tensor):
        return teacher.features(pixels.float() / 255)

    pictures = Pictures(resolution)
    return AutoencoderTask(replace(SPEC, batch=batch), vae, align, features, lpips, pictures, pictures, Processes(precision), 1)


def count(parameters: Iterable[Tensor]) -> int:
    return sum(p.numel() for p in parameters)


@contextmanager
def kept_for_backward(of: list[Tensor]):
    """A list whose one number is the bytes of all distinct tensors that autograd keeps, those of weights ``of`` apart.

    Autocast's copies of the weights, which do not grow with the batch, are known by their shapes.
    """
    weights = {p.untyped_storage().data_ptr() for p in of}
    shapes = {(p.shape, d) for p in of for d in (torch.bfloat16,)}
    seen: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights and (value.shape, value.dtype) not in shapes:
            seen[storage.data_ptr()] = storage.nbytes()
        return value

    total = [0]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        yield total
    total[0] = sum(seen.values())


def proof() -> None:
    """One step at 256x256; AssertionError where a count, a shape, a gradient or the memory is not what it must be."""
    vae, align, teacher, lpips = networks(256)
    made = task(256, 1, "fp32", (vae, align, teacher, lpips))
    assert count(vae.parameters()) == VAE_PARAMETERS
    # At 448 pixels its positions may be held as 32x32 rather than the published 37x37.
    body = count(p for name, p in teacher.network.named_parameters() if name != "pos_embed")
    assert body + 37 * 37 * 1024 == TEACHER_PARAMETERS
    assert count(made.discriminator.parameters()) == DISCRIMINATOR_PARAMETERS
    x = torch.from_numpy(made.images.batch([0]))
    patches, cls = teacher.features(x.float() / 255)
    assert patches.shape == (1, 32 * 32, 1024) and cls.shape == (1, 1024)
    with torch.no_grad():
        assert made.discriminator(models.to_input(x)).shape == (1, 1, 30, 30)
    moved = {"encoder": vae.encoder, "decoder": vae.decoder, "quant_conv": vae.quant_conv, "post_quant_conv": vae.post_quant_conv,
             "MLP_patch": align.patch, "MLP_cls": align.cls, "discriminator": made.discriminator}  # fmt: skip
    frozen = {"teacher": teacher.network, "LPIPS": lpips}
    before = {name: [p.detach().clone() for p in m.parameters()] for name, m in {**moved, **frozen}.items()}

    all_weights = [*made.trained, *made.discriminator.parameters(), *teacher.network.parameters(), *lpips.parameters()]
    with kept_for_backward(all_weights) as single:
        record = made.update(0)
    for name, module in moved.items():
        still = sum(torch.equal(a, b) for a, b in zip(before[name], module.parameters(), strict=True))
        assert still == 0, f"{name}: {still} parameters did not move"
    for name, module in frozen.items():
        assert all(torch.equal(a, b) for a, b in zip(before[name], module.parameters(), strict=True)), f"{name} moved"
    assert all(bool(torch.isfinite(torch.as_tensor(v))) for v in record.values())
    before.clear()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    assert peak < PEAK_GB, f"peak memory {peak:.1f} GiB"

    made.processes = Processes("bf16")
    with kept_for_backward(all_weights) as half:
        made.update(1)
    trained = count(made.trained) + count(made.discriminator.parameters())
    states, others = 16 * trained, 4 * (count(teacher.network.parameters()) + count(lpips.parameters()))
    print(f"one step at 256x256 on this CPU, peak {peak:.1f} GiB, loss terms:")
    print("  " + ", ".join(f"{k} {float(v):.4g}" for k, v in record.items()))
    print(f"parameters: autoencoder {count(vae.parameters()):,}, align networks {count(align.parameters()):,}, discriminator "
          f"{count(made.discriminator.parameters()):,}, teacher {count(teacher.network.parameters()):,}")  # fmt: skip
    print("gradients reach " + ", ".join(moved) + "; unchanged: " + ", ".join(frozen))
    print(
        f"GPU memory, estimated: {(states + others) / 1e9:.1f} GB for weights, gradients and AdamW (16 bytes a trained parameter, 4 a frozen one)"
    )
    for name, kept in (("fp32", single[0]), ("bf16 autocast", half[0])):
        print(f"  {name}: {kept / 1e9:.2f} GB an image kept for the backward pass; "
              + ", ".join(f"{max(0, int((gpu * 0.9 - (states + others) / 1e9) / (kept / 1e9)))} images on {gpu} GB" for gpu in (24, 40, 80)))  # fmt: skip


def own(parts) -> tuple:
    """An arm's own networks to train; the frozen ones are common to all."""
    vae, align, teacher, lpips = parts
    return copy.deepcopy(vae), copy.deepcopy(align), teacher, lpips


def plain(resolution: int, batch: int, parts) -> tuple:
    """The same step and encoding as anyone would write them on diffusers: float32, one graph, torch's defaults."""
    vae, align, teacher, lpips = own(parts)
    vae.train().requires_grad_(True)
    made = task(resolution, batch, "fp32", (vae, align, teacher, lpips))  # its discriminator and images
    discriminator = made.discriminator.to(memory_format=torch.contiguous_format)
    vae.to(memory_format=torch.contiguous_format)
    trained = [*vae.parameters(), *align.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=5e-5, betas=(0.9, 0.95), weight_decay=0.0)
    d_optimizer = torch.optim.AdamW(discriminator.parameters(), lr=5e-5, betas=(0.9, 0.95), weight_decay=0.0)
    x = models.to_input(torch.from_numpy(made.images.batch(range(batch))))

    def step() -> None:
        posterior = vae.encode(x).latent_dist
        z = posterior.sample()
        reconstruction = vae.decode(z).sample
        patches, cls = teacher.features((x + 1) / 2)
        loss = F.mse_loss(reconstruction, x) + lpips(reconstruction, x).mean() - 0.1 * discriminator(reconstruction).mean()
        loss = loss + 2e-5 * posterior.kl().mean()
        for predicted, target in zip(align(z), (patches, cls), strict=True):
            loss = (
                loss
                + 0.9 * (1 - F.cosine_similarity(predicted, target, dim=-1)).mean()
                + 0.1 * F.smooth_l1_loss(predicted, target)
            )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        d_loss = 0.5 * (F.relu(1 - discriminator(x)).mean() + F.relu(1 + discriminator(reconstruction.detach())).mean())
        d_optimizer.zero_grad()
        d_loss.backward()
        d_optimizer.step()

    @torch.no_grad()
    def encode() -> Tensor:
        return vae.encode(x).latent_dist.parameters

    return step, encode


def ours(resolution: int, batch: int, precision: str, parts) -> tuple:
    made = task(resolution, batch, precision, own(parts))
    x = models.to_input(torch.from_numpy(made.images.batch(range(batch)))).contiguous(memory_format=torch.channels_last)
    steps = iter(range(10**6))

    @torch.no_grad()
    def encode() -> Tensor:
        with made.processes.autocast():
            return torch.cat(models.moments(made.vae, x), dim=1)

    return lambda: made.update(next(steps)), encode


def arm(name: str, resolution: int, batch: int, parts) -> tuple:
    return plain(resolution, batch, parts) if name == ARMS[0] else ours(resolution, batch, name.split()[-1], parts)


def seconds(call, clock: str) -> float:
    began = time.process_time() if clock == "cpu" else time.perf_counter()
    call()
    taken = (time.process_time() if clock == "cpu" else time.perf_counter()) - began
    return taken / torch.get_num_threads() if clock == "cpu" else taken


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--proof", action="store_true")
    p.add_argument("--resolution", type=int, default=256)
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    p.add_argument("--memory-of", choices=ARMS, help=argparse.SUPPRESS)
    options = p.parse_args()
    torch.set_num_threads(options.threads)
    if options.proof:
        proof()
        return
    parts = networks(options.resolution)
    if options.memory_of:
        step, _ = arm(options.memory_of, options.resolution, options.batch, parts)
        step()
        print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))
        return
    arms = {name: arm(name, options.resolution, options.batch, parts) for name in ARMS}
    expected = arms[ARMS[0]][1]()
    for name, tolerance in ((ARMS[1], 1e-4), (ARMS[2], 5e-2)):
        difference = float((arms[name][1]().float() - expected).abs().max() / expected.abs().max())
        assert difference < tolerance, f"{name}: encodings differ from plain diffusers' by {difference}"
    for what, index in (("training step", 0), ("encoding", 1)):
        times: dict[str, list[float]] = {name: [] for name in ARMS}
        for k in range(options.rounds + 1):
            for name in ARMS if k % 2 else ARMS[::-1]:
                taken = seconds(arms[name][index], options.clock)
                if k:  # the first round warms up
                    times[name].append(taken)
        medians = {name: statistics.median(t) for name, t in times.items()}
        print(f"{what}, {options.resolution}x{options.resolution}, batch {options.batch}, {options.threads} thread(s), {options.clock} clock, "
              f"medians of {options.rounds} rounds")  # fmt: skip
        for name, median in medians.items():
            print(f"  {name:22} {options.batch / median:8.4f} images/s   {medians[ARMS[0]] / median:5.2f} x")
    del arms
    for name in ARMS:
        command = [
            sys.executable,
            __file__,
            "--memory-of",
            name,
            "--resolution",
            str(options.resolution),
            "--batch",
            str(options.batch),
        ]
        peak = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"  {name:22} peak memory of a process with one step {peak:.1f} GiB")


if __name__ == "__main__":
    main()
