"""The published files that a scale starts from: where each is published, and where it lies once `reals fetch` has brought it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reals import files
from reals.experiment.networks import PretrainedBase, PretrainedTeacher
from reals.experiment.scale import Scale

FETCHED = "fetched.json"
REFERENCE = "evaluation.reference"
DIFFUSERS_FILES = ("config.json", "diffusion_pytorch_model.safetensors")
TIMM_FILE = "model.safetensors"
# ADM's evaluations/README.md. No checksum is published there; the file is a zip archive, which has its own.
ADM_REFERENCES = {
    "VIRTUAL_imagenet256_labeled.npz": "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/imagenet/256/"
    "VIRTUAL_imagenet256_labeled.npz",
}


@dataclass(frozen=True)
class Published:
    """A published file: the key of the scale it is for, its place in the folder, and where it is published.

    That is a URL or a repository of the Hugging Face hub, in which the file is called as the last part of ``place``.
    ``digits`` are the first of its sha256 where its publisher states them: PyTorch writes them into file names.
    """

    key: str
    place: str
    url: str | None = None
    repository: str | None = None
    digits: str = ""

    @property
    def source(self) -> str:
        return self.url or f"{self.repository} on the Hugging Face hub"


def needed(scale: Scale) -> dict[str, Callable[[], list[Published]]]:
    """Key of the scale -> the published files that it names, where it does not name a local one instead.

    They are functions because where some are published is asked of the packages that use them, which take seconds to import.
    """
    found: dict[str, Callable[[], list[Published]]] = {}
    for name, base in scale.bases.items():
        if isinstance(base, PretrainedBase) and base.path.count("/") == 1 and not Path(base.path).exists():
            found[f"bases.{name}"] = partial(_hub, f"bases.{name}", base.path, *DIFFUSERS_FILES)
    for name, teacher in scale.teachers.items():
        if isinstance(teacher, PretrainedTeacher) and teacher.weights is None:
            found[f"teachers.{name}"] = partial(_hub, f"teachers.{name}", f"timm/{teacher.model}", TIMM_FILE)
    lpips, extractor, reference = scale.autoencoder.lpips, scale.evaluation.extractor, scale.evaluation.reference
    if lpips.backbone == "pretrained" and lpips.weights is None:
        found["autoencoder.lpips"] = partial(_lpips, lpips.net)
    if extractor.kind == "inception" and extractor.weights is None:
        found["evaluation.extractor"] = _inception
    for key, model in scale.evaluation.published_judges.items():
        found[key] = partial(_timm, key, model)
    if reference is not None and Path(reference).name in ADM_REFERENCES and not Path(reference).exists():
        found[REFERENCE] = partial(_reference, Path(reference).name)
    return found


def _hub(key: str, repository: str, *names: str) -> list[Published]:
    return [Published(key, f"{repository}/{name}", repository=repository) for name in names]


def _timm(key: str, model: str) -> list[Published]:
    return _hub(key, hub_of(model), TIMM_FILE)


def hub_of(model: str) -> str:
    """The repository of timm's own weights of a model; some models share one."""
    import timm

    config = timm.get_pretrained_cfg(model)
    assert config is not None and config.hf_hub_id is not None  # of the models named here
    return str(config.hf_hub_id)


def _lpips(net: str) -> list[Published]:
    return [_download("autoencoder.lpips", backbone_url(net))]


def backbone_url(net: str) -> str:
    """Where torchvision publishes a backbone of LPIPS. The linear layers on it are in the package lpips."""
    from torchvision import models

    stated = {"vgg": models.VGG16_Weights, "alex": models.AlexNet_Weights, "squeeze": models.SqueezeNet1_1_Weights}
    return stated[net].IMAGENET1K_V1.url


def _inception() -> list[Published]:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    return [_download("evaluation.extractor", URL_INCEPTION_V3)]


def _download(key: str, url: str) -> Published:
    """A file whose name ends in the first digits of its sha256."""
    name = url.rsplit("/", 1)[1]
    return Published(key, name, url=url, digits=Path(name).stem.rsplit("-", 1)[1])


def _reference(name: str) -> list[Published]:
    return [Published(REFERENCE, name, url=ADM_REFERENCES[name])]


def local(scale: Scale, key: str) -> Path | None:
    """What was fetched for a key of the scale: a file, of a base the folder of its files. None where it was not.

    ValueError where a file is not the one that was fetched.
    """
    folder, published = Path(scale.pretrained), needed(scale).get(key)
    if published is None or not folder.is_dir():
        return None
    wanted = published()
    if not are_there(folder, wanted):
        return None
    recorded = record(folder)
    for file in wanted:
        check(folder, file, recorded.get(file.place))
    place = folder / wanted[0].place
    return place if len(wanted) == 1 else place.parent


def are_there(folder: Path, wanted: list[Published]) -> bool:
    """Whether the files are in ``folder``, whole or not."""
    return all((folder / file.place).is_file() for file in wanted)


def reference(scale: Scale) -> Path | None:
    """The reference file that the scale names: where it says, else among what was fetched."""
    stated = scale.evaluation.reference
    if stated is None:
        return None
    fetched = Path(scale.pretrained) / Path(stated).name
    return fetched if not Path(stated).exists() and fetched.is_file() else Path(stated)


def record(folder: Path) -> dict[str, dict]:
    """What `reals fetch` wrote of the files in ``folder``, by their places: bytes, sha256, source, date."""
    path = folder / FETCHED
    return entries(path.read_bytes(), str(path)) if path.exists() else {}


def entries(text: bytes, source: str) -> dict[str, dict]:
    """What a record read from ``source`` says. ValueError where it is none."""
    try:
        found = json.loads(text)["files"]
        whole = all(isinstance(entry["bytes"], int) and isinstance(entry["sha256"], str) for entry in found.values())
    except (ValueError, TypeError, KeyError, AttributeError):
        whole = False
    if not whole:
        raise ValueError(f"{source}: no record of fetched files; delete it and run `reals fetch` again")
    return found


def check(folder: Path, file: Published, recorded: dict | None) -> str:
    """The sha256 of a file in ``folder``. ValueError where it is another than was recorded, or than its publisher states."""
    path = folder / file.place
    digest = files.sha256(path)
    expected = recorded["sha256"] if recorded is not None else file.digits
    if not digest.startswith(expected):
        raise ValueError(f"{file.key}: {path}: sha256 is {digest}, expected {expected}; delete it and run `reals fetch` again")
    return digest
