"""Are the weights and the reference file that the scale names there, whole, and those of their checksums; else, can they be had?

What `reals fetch` brought comes first (`reals.planning.pretrained`), then the packages' own caches, then their hosts.
"""

import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reals import files
from reals.experiment.artefact import Artefact
from reals.experiment.metric_table import JUDGES
from reals.experiment.networks import PretrainedBase, PretrainedTeacher
from reals.experiment.reading import ConfigError
from reals.experiment.registry import Registry
from reals.experiment.scale import Scale
from reals.experiment.specs import TrainedAutoencoderSpec
from reals.planning import pretrained
from reals.planning.preflight import remote
from reals.planning.preflight.data import labelled_folders

TIMM_FILES = ("model.safetensors", "pytorch_model.bin")
DIFFUSERS_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


@dataclass(frozen=True)
class Stated:
    """A file that the scale names: under which key, with which checksum, and the ids of the artefacts whose jobs read it."""

    key: str
    path: str
    sha256: str | None
    users: frozenset[str]


def there(registry: Registry, to_make: set[str]) -> None:
    """The cheap look: ConfigError where a file is missing that one of the artefacts ``to_make`` (ids) is made with."""
    scale = registry.experiment.scale
    for stated in stated_files(registry):
        if stated.users & to_make:
            _exists(stated.key, stated.path)
    for key, teacher in scale.teachers.items():
        if (
            isinstance(teacher, PretrainedTeacher)
            and teacher.weights is None
            and registry.teachers[key].id in to_make
            and not pretrained.are_there(Path(scale.pretrained), pretrained.needed(scale)[f"teachers.{key}"]())
        ):
            hub_weights(f"teachers.{key}", f"timm/{teacher.model}", *TIMM_FILES)
    for name, base in scale.bases.items():
        made_of_it = registry.autoencoders.get(name)
        if not isinstance(base, PretrainedBase) or made_of_it is None or made_of_it.id not in to_make:
            continue
        if Path(base.path).is_dir() and not (Path(base.path) / "config.json").is_file():
            raise ConfigError(
                f"bases.{name}.path: {base.path} has no config.json; expected the folder of a diffusers AutoencoderKL"
            )
        if not Path(base.path).exists() and base.path.count("/") != 1:
            raise ConfigError(f"bases.{name}.path: {base.path}: no such file or folder (a hub name is owner/name)")
        if Path(base.path).is_dir():
            _usable_latents(f"bases.{name}", Path(base.path))


def stated_files(registry: Registry) -> Iterator[Stated]:
    """Every file that the scale names."""
    scale = registry.experiment.scale
    extractor, reference = scale.evaluation.extractor, pretrained.reference(scale)
    measured = list(registry.analyses.values())
    with_extractor = [registry.extractor, registry.reference, *registry.evaluations.values(), *measured]
    trained = [ae for ae in registry.autoencoders.values() if isinstance(ae.spec, TrainedAutoencoderSpec)]
    stated: list[tuple[str, str | None, str | None, Iterable[Artefact]]] = [
        ("evaluation.reference", str(reference) if reference else None, None, [registry.reference]),
        ("evaluation.extractor.weights", getattr(extractor, "weights", None), getattr(extractor, "sha256", None), with_extractor),
        *(
            (
                f"evaluation.{JUDGES[metric]}.weights",
                getattr(judge, "weights", None),
                getattr(judge, "sha256", None),
                [registry.judges[metric], registry.judge_references[metric], *registry.evaluations.values()],
            )
            for metric, judge in scale.evaluation.judges.items()
        ),
        ("autoencoder.lpips.weights", scale.autoencoder.lpips.weights, None, [*trained, *measured]),
        *((f"{what}.head", labels.head, None, registry.downstream.values()) for what, labels in labelled_folders(registry)),
        *(
            (f"teachers.{k}.weights", getattr(t, "weights", None), getattr(t, "sha256", None), [registry.teachers[k]])
            for k, t in scale.teachers.items()
        ),
    ]
    for key, path, digest, users in stated:
        if path is not None:
            yield Stated(key, path, digest, frozenset(artefact.id for artefact in users))


def _exists(what: str, name: str) -> Path:
    if not Path(name).is_file():
        hint = "; `reals fetch` brings it" if Path(name).name in pretrained.ADM_REFERENCES else ""
        raise ConfigError(f"{what}: {name}: no such file{hint}")
    return Path(name)


def stated_file(what: str, name: str, digest: str | None) -> str:
    """That a file the scale names is there, whole, and the one its checksum says."""
    path = _exists(what, name)
    if path.suffix == ".npz":
        try:
            with zipfile.ZipFile(path) as archive:
                lacking = {"arr_0.npy", "mu.npy", "sigma.npy", "mu_s.npy", "sigma_s.npy"} - set(archive.namelist())
        except zipfile.BadZipFile:
            raise ConfigError(f"{what}: {name} is not a whole .npz file; fetch it again") from None
        if lacking:
            raise ConfigError(f"{what}: {name} lacks {', '.join(sorted(lacking))}; it is not ADM's reference file")
    found = files.sha256(path)
    if digest is not None and found != digest:
        raise ConfigError(f"{what}: {name}: sha256 is {found}, expected {digest}; fetch the file again")
    return f"{name}, sha256 {found[:16]}" + (", as stated" if digest else " (none is stated to compare)")


def published(registry: Registry) -> Iterator[tuple[str, Callable[[], str]]]:
    """Checks of weights that were fetched, or are taken from a hub, a package's download or a diffusers folder."""
    scale = registry.experiment.scale
    for name, base in scale.bases.items():
        if isinstance(base, PretrainedBase):
            yield _fetched_or(scale, f"bases.{name}", partial(diffusers_base, f"bases.{name}", base))
    for key, teacher in scale.teachers.items():
        if isinstance(teacher, PretrainedTeacher) and teacher.weights is None:
            hub = partial(hub_weights, f"teachers.{key}", f"timm/{teacher.model}", *TIMM_FILES)
            yield _fetched_or(scale, f"teachers.{key}", hub)
    if scale.evaluation.extractor.kind == "inception" and scale.evaluation.extractor.weights is None:
        yield _fetched_or(scale, "evaluation.extractor", inception_weights)
    for what, model in scale.evaluation.published_judges.items():
        yield _fetched_or(scale, what, partial(_timm_weights, what, model))
    lpips = scale.autoencoder.lpips
    if lpips.backbone == "pretrained" and lpips.weights is None:
        yield _fetched_or(scale, "autoencoder.lpips", lambda: lpips_weights(lpips.net))


def _fetched_or(scale: Scale, key: str, elsewhere: Callable[[], str]) -> tuple[str, Callable[[], str]]:
    def look() -> str:
        fetched = pretrained.local(scale, key)
        if fetched is None:
            return elsewhere()
        for file in pretrained.needed(scale)[key]():
            _opens(Path(scale.pretrained) / file.place)
        return f"{fetched}, as it was fetched"

    return key, look


def diffusers_base(what: str, base: PretrainedBase) -> str:
    """A pretrained autoencoder: a diffusers folder or a single file that is whole, or a repository of the hub."""
    folder = Path(base.path)
    if folder.is_file():
        return f"{folder}, sha256 {_whole(folder)[:16]}"
    if not folder.is_dir():
        return hub_weights(what, base.path, *DIFFUSERS_FILES, instead="path: a local folder or file")
    for name in DIFFUSERS_FILES:
        if (folder / "config.json").is_file() and (folder / name).is_file():
            _usable_latents(what, folder)
            return f"{folder / name}, sha256 {_whole(folder / name)[:16]}"
    raise ConfigError(
        f"{what}: {folder} lacks config.json or diffusion_pytorch_model.safetensors; give a diffusers AutoencoderKL folder"
    )


def _usable_latents(what: str, folder: Path) -> None:
    """ConfigError where the autoencoder of a diffusers folder has latents that ours cannot be."""
    from reals.method.models import autoencoder  # here: it imports torch, and most scales name no folder

    try:
        autoencoder.latent_scale(folder / "config.json", files.read_json(folder / "config.json", "fetch or make it again"))
    except ValueError as error:
        raise ConfigError(f"{what}.path: {error}") from None


def _whole(path: Path) -> str:
    """The sha256 of a weights file; ConfigError where a safetensors file is cut short."""
    _opens(path)
    return files.sha256(path)


def _opens(path: Path) -> None:
    """ConfigError where a safetensors file is cut short, or none."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            files.refuse_unreadable(path)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        try:
            with safe_open(path, framework="np") as opened:
                opened.keys()
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{path} is damaged ({error}); fetch it again") from None


def hub_weights(what: str, repository: str, *names: str, instead: str = "weights: a local file") -> str:
    """One of some files of a Hugging Face repository: in the cache, or to be had; ``instead``: the key that may name a local one."""
    from huggingface_hub import constants, try_to_load_from_cache

    cached = next((found for name in names if isinstance(found := try_to_load_from_cache(repository, name), str)), None)
    if cached is not None:
        # The cache's file is a link named by its own checksum.
        digest, name = _whole(Path(cached)), Path(cached).resolve().name
        if re.fullmatch("[0-9a-f]{64}", name) and name != digest:
            raise ConfigError(
                f"{what}: {cached}: sha256 is {digest}, expected {name}; delete it and run `hf download {repository}`"
            )
        return f"{repository} is in the cache, sha256 {digest[:16]}"
    if constants.HF_HUB_OFFLINE or not remote.reachable("huggingface.co"):
        raise ConfigError(
            f"{what}: {repository} is not in the hub's cache and the hub cannot be reached; run `reals fetch` where there is a "
            f"network, or give {instead}"
        )
    return f"{repository}: not in the cache yet; its job downloads it (compute nodes may have no network: `reals fetch`)"


def _timm_weights(what: str, model: str) -> str:
    return hub_weights(what, pretrained.hub_of(model), *TIMM_FILES)


def inception_weights() -> str:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    return _torch_download(URL_INCEPTION_V3, "evaluation.extractor.weights")


def lpips_weights(net: str) -> str:
    return _torch_download(pretrained.backbone_url(net), "autoencoder.lpips.weights")


def _torch_download(url: str, key: str) -> str:
    """A file that PyTorch downloads; its name ends in the first digits of its sha256."""
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not path.exists():
        host = url.split("/")[2]
        if not remote.reachable(host):
            raise ConfigError(
                f"{path}: no such file, and {host} is out of reach; run `reals fetch` where there is a network, or name a file as {key}"
            )
        return f"{path.name}: not on this machine yet; its job downloads it from {host}"
    digest = files.sha256(path)
    if not digest.startswith(path.stem.rsplit("-", 1)[1]):
        raise ConfigError(f"{path}: sha256 is {digest}, which does not begin as its name says; delete it and fetch {url} again")
    return f"{path}, sha256 {digest[:16]}, as its name says"
