"""The most memory that work of an experiment takes on one GPU, in bytes of tensors: the real step, followed without a GPU."""

from contextlib import nullcontext
from dataclasses import replace

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

from reals.experiment.artefact import Artefact
from reals.experiment.registry import Registry
from reals.experiment.specs import AutoencoderSpec, LatentsSpec, RunSpec, SamplesSpec, TrainedAutoencoderSpec
from reals.method.models import autoencoder as autoencoders
from reals.method.precision import running
from reals.planning.imagined import ImaginedProcesses, shared_batch_norm, unwritten
from reals.planning.ledger import counted
from reals.planning.workload import Workload
from reals.training.tasks.transformer import checkpoint_blocks


def transformer(registry: Registry, run: Artefact[RunSpec], gpus: int, accumulate: int, checkpointed: bool) -> int:
    """Of training a run on so many GPUs: its steps and what it logs."""
    with counted() as ledger:
        processes = ImaginedProcesses(run.spec.precision or "fp32", accumulate, gpus)
        task = Workload(registry, processes, make=unwritten).transformer(run)
        if checkpointed and not registry.experiment.scale.engine.checkpoint_blocks:
            checkpoint_blocks(task.model)
        task.rehearsed = True
        with unset_fake_temporarily():  # batches are made in threads, which know nothing of what is followed here
            task.labels = torch.zeros(len(task.latents), dtype=torch.int64)
        for step in range(2):  # the optimizer has its moments from the first on
            task.update(step)
        task.extras()
    return ledger.peak


def autoencoder(registry: Registry, artefact: Artefact[AutoencoderSpec], gpus: int, accumulate: int) -> int:
    """Of training an autoencoder on so many GPUs: its steps, the discriminator's too, and what it logs.

    EQ-VAE's steps scale images down, so that the plain step is the one that counts.
    """
    if isinstance(artefact.spec, TrainedAutoencoderSpec):
        artefact = replace(artefact, spec=replace(artefact.spec, equivariance=None))
    with counted() as ledger, shared_batch_norm() if gpus > 1 else nullcontext():
        spec = artefact.spec
        processes = ImaginedProcesses(getattr(spec, "precision", None) or "fp32", accumulate, gpus)
        task = Workload(registry, processes, make=unwritten).autoencoder(artefact)
        for step in range(2):
            task.update(task.spec.gan.start + task.spec.gan.ramp + step)
        task.held_out_every = 1  # its record is due
        task.extras()
    return ledger.peak


def sampling(registry: Registry, samples: Artefact[SamplesSpec], n: int) -> int:
    """Of drawing and decoding ``n`` samples at once."""
    spec, run = samples.spec, samples.needed("run").spec
    with counted() as ledger, torch.no_grad():
        workload = Workload(registry, ImaginedProcesses("fp32", 1, 1), make=unwritten)
        network, _ = workload.drawing(samples, "fp32")  # FakeTensors that are watched cannot be cast
        network.precision = spec.precision or "fp32"
        vae = workload.vae().eval().requires_grad_(False)
        latents = torch.empty(n, run.latent_channels, run.latent_size, run.latent_size)
        labels, times = torch.zeros(n, dtype=torch.int64), torch.zeros(n)
        both = [torch.cat([tensor, tensor]) if spec.cfg != 1 else tensor for tensor in (latents, times, labels)]
        network(*both)
        del both
        with running(latents.device, network.precision):
            images = vae.decode(latents).sample
        (127.5 * images.float() + 128).clamp(0, 255).to(torch.uint8)
    return ledger.peak


def encoding(registry: Registry, latents: Artefact[LatentsSpec], batch: int) -> int:
    """Of encoding one batch of images for the latents' cache."""
    resolution = registry.experiment.scale.data.resolution
    with counted() as ledger, torch.no_grad():
        vae = Workload(registry, ImaginedProcesses("fp32", 1, 1), make=unwritten).vae().eval().requires_grad_(False)
        x = autoencoders.to_input(torch.empty(batch, 3, resolution, resolution, dtype=torch.uint8))
        with running(x.device, latents.spec.compute or "fp32"):
            autoencoders.moments(vae, x.flip(-1))
    return ledger.peak
