"""Where does an arm's FID come from: its decoder, details that the transformer draws badly, or their arrangement?

    python benchmarks/evidence_errors.py cifar10 sit-b4-sd-vae_late sit-b4-control_late sit-b4-reals_late [--data /path]

For each evaluation, by the scale's feature extractors, FID of the same training images against the whole reference: as they are (the bias of so few
images); encoded and decoded; decoded from latents with noise of 0.1 and 0.2 of their standard deviation added, which a transformer's
small errors look like; with noise added up to time t (1 is data) and the rest drawn by the evaluation's own network, SDE step and
guidance. What the last columns add from one to the next is what the transformer loses between those noise levels; at t = 0 all is drawn.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from reals import rng
from reals.data.latent_scale import LatentScale
from reals.experiment.artefact import Artefact
from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.measure.extractor import extract
from reals.measure.features import batches
from reals.measure.metrics.generation import distance
from reals.method import paths, samplers
from reals.method.models import autoencoder as autoencoders
from reals.method.sampling import decode, sampling_of
from reals.stages.context import Context
from reals.stages.inputs import load_extractor, load_reference
from reals.stages.sample import loaded

NOISE = (0.1, 0.2)
STARTS = (0.8, 0.6, 0.4, 0.0)
BATCH = 250


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("scale")
    p.add_argument("evaluations", nargs="+")
    p.add_argument("--data")
    p.add_argument("--images", type=int, default=2000)
    options = p.parse_args()
    context = Context(Registry(load(options.scale, data=options.data)))
    fid = fid_of(context)
    images, labels = chosen(context, options.images)
    print(f"FID of {len(images)} training images; as they are: {fid(images)}\n")
    heads = ["evaluation", "decoded", *(f"noise {n:g}" for n in NOISE), *(f"drawn from t = {t:g}" for t in STARTS)]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    with torch.no_grad():
        for name in options.evaluations:
            cells = [fid(made) for made in stages(context, context.registry.evaluations[name], images, labels)]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


def fid_of(context: Context) -> Callable[[np.ndarray], str]:
    """FID of images uint8 [N, 3, H, W] by each of the scale's feature extractors, as text."""
    pairs = [
        (load_extractor(context, artefact.needed("extractor")), load_reference(context, artefact).pool)
        for artefact in (context.registry.reference, context.registry.judge_references.get("fid_second"))
        if artefact is not None
    ]

    def fid(made: np.ndarray) -> str:
        pools = [(extract(extractor, batches(made)).pool, reference) for extractor, reference in pairs]
        return ", ".join(f"{distance(pool, reference):.2f}" for pool, reference in pools)

    return fid


def chosen(context: Context, count: int) -> tuple[np.ndarray, Tensor]:
    """(uint8 [count, 3, H, W], classes): always the same training images."""
    train = context.images("train")
    rows = rng.permutation(0, "evidence errors", n=len(train))[:count]
    return train.batch(rows), torch.as_tensor(np.asarray(train.labels)[rows], dtype=torch.int64)


def batches_of(images: np.ndarray | Tensor) -> list[list[int]]:
    return [list(range(i, min(i + BATCH, len(images)))) for i in range(0, len(images), BATCH)]


def encoded(vae: nn.Module, images: np.ndarray, rows: list[int]) -> Tensor:
    """The posterior's sample of these images; image i's noise depends on i alone."""
    mean, logvar = autoencoders.moments(vae, autoencoders.to_input(torch.from_numpy(images[rows]).to(vae.device)))
    noise = samplers.per_sample_noise(0, rows, mean.shape[1:], "evidence errors posterior", vae.device)(0)
    return mean + torch.exp(0.5 * logvar) * noise


def decoded(vae: nn.Module, latents: list[Tensor], what: str) -> np.ndarray:
    """uint8 [N, 3, H, W] of the latents of `batches_of`; ``what`` is named where one is not finite."""
    batches = batches_of(torch.cat(latents))
    return torch.cat([decode(vae, z, rows, what).cpu() for z, rows in zip(latents, batches, strict=True)]).numpy()


def stages(context: Context, artefact: Artefact, images: np.ndarray, labels: Tensor) -> Iterator[np.ndarray]:
    """Images uint8 [N, 3, H, W] for each column of the table."""
    samples = artefact.needed("samples")
    (network, facts, vae), sampling = loaded(context, samples), sampling_of(samples.spec)
    scale = LatentScale.of(facts)

    def noise(what: str, shape: tuple[int, ...], indices: list[int]) -> samplers.NoiseAt:
        return samplers.per_sample_noise(0, indices, shape, f"evidence errors {what}", context.device)

    batches = batches_of(images)
    latents = [encoded(vae, images, rows) for rows in batches]
    shape, std = latents[0].shape[1:], torch.cat(latents).std()

    def drawn(z: Tensor, rows: list[int], start: float) -> Tensor:
        time = torch.tensor(start, dtype=torch.float64)
        x, _ = paths.interpolate(paths.PATHS[sampling.path], scale.scaled_(z.clone()), noise("start", shape, rows)(0), time)
        field = sampling.field(network, labels[rows].to(context.device), null=network.config.classes)
        own_step = replace(sampling, steps=max(2, round(sampling.steps * (1 - start))))
        return scale.unscaled(own_step.integrate(field, x, noise("step", shape, rows), start=start))

    def changed(change: Callable[[Tensor, list[int]], Tensor]) -> np.ndarray:
        return decoded(vae, [change(z, rows) for z, rows in zip(latents, batches, strict=True)], artefact.name)

    yield changed(lambda z, rows: z)
    for share in NOISE:
        yield changed(lambda z, rows, share=share: z + share * std * noise("latents", shape, rows)(0))
    for start in STARTS:
        yield changed(lambda z, rows, start=start: drawn(z, rows, start))


if __name__ == "__main__":
    main()
