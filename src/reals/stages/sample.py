"""Stage `sample`: images of one evaluation as uint8 shards; image i depends on (seed, i) alone."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reals import ddpm, files, rng, samplers
from reals.images import save_array
from reals.journal import work
from reals.metrics.reconstruction import to_uint8
from reals.models import autoencoder as models
from reals.progress import Progress
from reals.registry import Artefact
from reals.stages import Context
from reals.stages import transformer as transformers


def labels_of(spec: dict, classes: int) -> np.ndarray:
    """The class of each sample, int64 [n]: drawn uniformly (as DiT and SiT do), or i mod classes where balanced."""
    n = spec["n"]
    if spec["labels"] == "balanced":
        return np.arange(n) % classes
    return np.array([int(torch.randint(classes, (), generator=rng.generator(spec["seed"], "label", i))) for i in range(n)])


def shard_range(n: int, shard: int, shards: int) -> range:
    """Sample indices of one shard: contiguous, sizes differing by at most one."""
    return range(n * shard // shards, n * (shard + 1) // shards)


def draw(model, spec: dict, family: str, y: Tensor, indices: list[int], device: torch.device, progress=None) -> Tensor:
    """Scaled latents [B, C, h, w] of the given sample indices."""
    c = model.config
    shape = (c.latent_channels, c.latent_size, c.latent_size)
    start = samplers.per_sample_noise(spec["seed"], indices, shape, "sample start", device)(0)
    noise_at = samplers.per_sample_noise(spec["seed"], indices, shape, "sample noise", device)
    channels = {"3": 3, "all": "all", None: "all"}[spec["cfg_channels"]]
    if family == "DiT":
        field = samplers.guided_noise(model, y, spec["cfg"], null=c.classes, channels=channels)
        schedule = ddpm.respace(ddpm.linear_schedule(), spec["steps"])
        return samplers.ddpm_ancestral(field, start, schedule, noise_at, progress=progress)
    interval = tuple(spec["interval"]) if spec["interval"] else (0.0, 1.0)
    field = samplers.guided(model, y, spec["cfg"], null=c.classes, interval=interval,
                            interval_time=spec["interval_time"] or "noise", channels=channels)  # fmt: skip
    if spec["sampler"] == "ode":
        return samplers.heun(field, start, spec["steps"] // 2, progress=progress)
    p = spec["path"]
    return samplers.euler_maruyama(
        field, start, spec["steps"], noise_at, form=p["diffusion_form"], norm=p["diffusion_norm"],
        last=p["last_step"], last_size=p["last_step_size"], progress=progress,
    )  # fmt: skip


def run(context: Context, artefact: Artefact, shard: int) -> None:
    """Writes shard_<k>.npy (uint8 [n_k, 3, R, R]); shard 0 also gallery.npz: the first latents, unscaled, and labels.

    Every batch is kept as it is done (in parts/), so a killed job goes on with the next batch.
    """
    spec, scale, registry = artefact.spec, context.scale, context.registry
    folder = context.begin(artefact)
    path = transformers.weights_path(registry.folder(artefact.needed("run")), spec["step"])
    model, facts = transformers.load(path, context.device)
    source = registry.folder(artefact.needed("autoencoder"))
    files.opened(source)
    vae = models.load(source, context.device).to(memory_format=torch.channels_last)
    labels = labels_of(spec, model.config.classes)
    own = shard_range(spec["n"], shard, scale.sampling.shards)
    batches = [list(own[i : i + scale.sampling.batch]) for i in range(0, len(own), scale.sampling.batch)]
    progress = Progress(f"{artefact.name} shard {shard}", len(own) * spec["steps"])
    images, latents = [], []
    with work(), torch.no_grad():
        for number, indices in enumerate(batches):
            part = folder / "parts" / f"{shard:03d}_{indices[0]:06d}_{len(indices)}.npz"
            if not part.exists():  # parts are renamed into place, so one that exists is whole
                y = torch.from_numpy(labels[indices]).to(context.device)
                before = sum(len(b) for b in batches[:number]) * spec["steps"]
                z = draw(model, spec, facts["family"], y, indices, context.device,
                         partial(_report, progress, before, len(indices)))  # fmt: skip
                z = z / facts["scaling_factor"]
                if not torch.isfinite(z).all():
                    raise FloatingPointError(
                        f"{artefact.name}: sampling from {path} gave non-finite latents in batch {number}; look at the run's log.jsonl"
                    )
                decoded = to_uint8(vae.decode(z.float()).sample).cpu().numpy()
                files.write_atomically(part, lambda p, d=decoded, z=z: save_npz(p, images=d, latents=z.float().cpu().numpy()))
            with np.load(part) as saved:
                images.append(saved["images"])
                latents.append(saved["latents"])
    save_array(folder / f"shard_{shard:03d}.npy", np.concatenate(images))
    if shard == 0:
        first = min(scale.sampling.gallery, len(own))
        kept = {"latents": np.concatenate(latents)[:first], "images": np.concatenate(images)[:first], "labels": labels[:first]}
        files.write_atomically(folder / "gallery.npz", lambda p: save_npz(p, **kept))
    for part in (folder / "parts").glob(f"{shard:03d}_*"):
        part.unlink()


def _report(progress: Progress, before: int, size: int, done: int, total: int) -> None:
    progress.update(before + done * size)


def save_npz(path: Path, **arrays: np.ndarray) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


def provenance(context: Context, artefact: Artefact) -> dict:
    """Where the samples come from: the checkpoint's own facts, its place and its hash."""
    spec = artefact.spec
    path = transformers.weights_path(context.registry.folder(artefact.needed("run")), spec["step"])
    _, facts = transformers.load(path, torch.device("cpu"))
    return {"checkpoint": str(path), "checkpoint_sha256": files.sha256(path), **facts}
