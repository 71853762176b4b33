"""Stage `sample`: images of one evaluation as uint8 shards; image i depends on (seed, i) alone."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from reals import files
from reals.arrays import save_array, save_npz
from reals.data.latent_scale import LatentScale
from reals.experiment.artefact import Artefact
from reals.experiment.specs import SamplesSpec
from reals.machine import compiler
from reals.machine.usage import work
from reals.method.models import autoencoder as models
from reals.method.sampling import InPrecision, decode, draw, random_labels, sampling_of, shard_range
from reals.progress import Progress
from reals.stages.context import Context
from reals.stages.inputs import checkpoint, load_transformer

if TYPE_CHECKING:  # diffusers is imported where it is used: it takes seconds
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL


def labels_of(spec: SamplesSpec, classes: int) -> np.ndarray:
    """The class of each sample, int64 [n]: drawn uniformly (as DiT and SiT do), or i mod classes where balanced."""
    n = spec.n
    return np.arange(n) % classes if spec.labels == "balanced" else random_labels(spec.seed, range(n), classes)


def loaded(context: Context, artefact: Artefact[SamplesSpec]) -> tuple[InPrecision, dict, "AutoencoderKL"]:
    """What samples are drawn by: (network, its checkpoint's facts, autoencoder), refused where one was made with another copy."""
    path, source = checkpoint(context, artefact), context.folder(artefact.needed("autoencoder"))
    model, facts = load_transformer(path, context.device)
    files.refuse_other_copy(files.fingerprint(files.verified(source)), facts.get("autoencoder_sha256"), source, path)
    network = InPrecision(model, artefact.spec.precision or "fp32")
    if context.scale.engine.compile:
        compiler.require(context.device.type == "cuda", "engine.compile")
        network.compile()
    return network, facts, models.channels_last(models.load(source, context.device), context.device)


def run(context: Context, artefact: Artefact[SamplesSpec], shard: int) -> None:
    """Writes shard_<k>.npy (uint8 [n_k, 3, R, R]); shard 0 also gallery.npz: the first latents, unscaled, and labels.

    Every batch is kept as it is done (in parts/), so a killed job goes on with the next batch.
    """
    spec, scale, registry = artefact.spec, context.scale, context.registry
    folder = context.begin(artefact)
    network, facts, vae = loaded(context, artefact)
    labels, sampling = labels_of(spec, network.config.classes), sampling_of(spec)
    sampling.check(facts["family"], network.config)
    own = shard_range(spec.n, shard, registry.shards(artefact))
    batches = [list(own[i : i + scale.sampling.batch]) for i in range(0, len(own), scale.sampling.batch)]
    rounds = spec.steps or 1  # dopri5 has none, and counts images
    progress = Progress(f"{artefact.name} shard {shard}", len(own) * rounds)
    source = f"{artefact.name}, {checkpoint(context, artefact)}"
    images, latents = [], []
    with work(), torch.no_grad():
        for number, indices in enumerate(batches):
            part = folder / "parts" / f"{shard:03d}_{indices[0]:06d}_{len(indices)}.npz"
            if not part.exists():  # parts are renamed into place, so one that exists is whole
                y = torch.from_numpy(labels[indices]).to(context.device)
                before = sum(len(b) for b in batches[:number]) * rounds
                z = draw(network, sampling, spec.seed, y, indices, context.device,
                         partial(_report, progress, before, len(indices) * rounds))  # fmt: skip
                z = LatentScale.of(facts).unscaled(z)
                decoded = decode(vae, z, indices, source, network.precision).cpu().numpy()
                files.write_atomically(part, partial(save_npz, images=decoded, latents=z.float().cpu().numpy()))
            with np.load(part) as saved:
                images.append(saved["images"])
                latents.append(saved["latents"])
    if shard == 0:
        first = min(scale.sampling.gallery, len(own))
        kept = {"latents": np.concatenate(latents)[:first], "images": np.concatenate(images)[:first], "labels": labels[:first]}
        files.write_atomically(folder / "gallery.npz", lambda p: save_npz(p, **kept))
    # Last, because it is what says that the shard is done.
    (path,) = registry.files(artefact, shard)
    save_array(path, np.concatenate(images))
    for part in (folder / "parts").glob(f"{shard:03d}_*"):
        part.unlink()


def _report(progress: Progress, before: int, size: int, done: int, total: int) -> None:
    progress.update(before + size * done // total)
