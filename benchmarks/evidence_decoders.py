"""How much of an arm's FID is the decoder that it happened to get? The same samples through a decoder trained on.

    python benchmarks/evidence_decoders.py cifar10 sit-b4-sd-vae_late sit-b4-reals_late-seed2 [--steps 500] [--data /path]

For each evaluation the decoder is trained on as a fine-tuning trains it (losses, learning rate, a fresh discriminator), with the
encoder frozen, so that the latents and what a transformer draws stay as they are. FID, before and after, by the scale's feature extractors, of
training images encoded and decoded and of the evaluation's first samples; PSNR of held-out images. All arms get the same.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from evidence_errors import batches_of, chosen, decoded, encoded, fid_of
from torch import Tensor

from reals.data.latent_scale import LatentScale
from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.experiment.specs import TrainedAutoencoderSpec
from reals.method.sampling import draw, sampling_of
from reals.progress import Progress
from reals.stages.context import Context
from reals.stages.inputs import load_lpips
from reals.stages.sample import labels_of, loaded
from reals.training.processes import Processes
from reals.training.tasks.autoencoder import AutoencoderTask

OTHER_SEED = 100  # added to the arm's, for other batches and another discriminator than those that made its decoder


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("scale")
    p.add_argument("evaluations", nargs="+")
    p.add_argument("--data")
    p.add_argument("--steps", type=int, help="(the scale's autoencoder.steps)")
    p.add_argument("--images", type=int, default=1500)
    options = p.parse_args()
    context = Context(Registry(load(options.scale, data=options.data)))
    steps = options.steps or context.scale.autoencoder.steps
    fid = fid_of(context)
    images, _ = chosen(context, options.images)
    print(f"FID of {len(images)} training images; as they are: {fid(images)}; {steps} steps\n")
    heads = ["evaluation", "decoded, before", "samples, before", "PSNR", "decoded, after", "samples, after", "PSNR"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    batches = batches_of(images)
    for name in options.evaluations:
        samples = context.registry.evaluations[name].needed("samples")
        (network, facts, vae), sampling, seed = loaded(context, samples), sampling_of(samples.spec), samples.spec.seed
        labels = torch.from_numpy(labels_of(samples.spec, network.config.classes)).to(context.device)
        scale = LatentScale.of(facts)
        drawn = [scale.unscaled(draw(network, sampling, seed, labels[rows], rows, context.device)) for rows in batches]
        with Processes(context.scale.autoencoder.precision or "fp32") as processes:
            task = decoder_task(context, samples.needed("autoencoder").spec, vae, steps, processes)
            before, progress = quality(task, fid, images, drawn), Progress(name, steps)
            for step in range(steps):
                task.update(step)
                progress.update(step + 1)
            print(f"| {' | '.join([name, *before, *quality(task, fid, images, drawn)])} |", flush=True)


@torch.no_grad()
def quality(task: AutoencoderTask, fid: Callable[[np.ndarray], str], images: np.ndarray, drawn: list[Tensor]) -> list[str]:
    """FID of the images encoded and decoded, FID of the drawn latents decoded, PSNR of held-out images."""
    latents = [encoded(task.vae, images, rows) for rows in batches_of(images)]
    return [
        *(fid(decoded(task.vae, z, "the decoder")) for z in (latents, drawn)),
        f"{task.held_out.record()['held_out_psnr']:.2f} dB",
    ]


def decoder_task(
    context: Context, spec: TrainedAutoencoderSpec, vae: torch.nn.Module, steps: int, processes: Processes
) -> AutoencoderTask:
    """A fine-tuning of ``vae`` without alignment and KL, in which the decoder alone is stepped."""
    config = context.scale.autoencoder
    own = replace(spec, steps=steps, batch=config.batch, lr=config.lr, seed=spec.seed + OTHER_SEED, lambda_k=0.0, align=None)
    lpips = load_lpips(context)
    task = AutoencoderTask(own, vae, None, None, lpips, context.images("train"), context.images("held_out"), processes,
                           config.held_out_images)  # fmt: skip
    vae.encoder.requires_grad_(False)  # saves its backward; the one before the latents stays, for the task's own
    task.trained = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    task.optimizer.param_groups[0]["params"] = task.trained
    return task


if __name__ == "__main__":
    main()
