"""The frozen vision transformer whose features the latents are aligned with."""

import difflib
import pickle
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reals import files
from reals.experiment.specs import PretrainedTeacherSpec, TeacherSpec
from reals.files import write_atomically, write_json

if TYPE_CHECKING:  # timm is imported where it is used: it takes seconds
    from timm.models.vision_transformer import VisionTransformer

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TeacherConfig:
    """How to build and feed the network. ``timm`` is a timm model name, or '' for a plain ViT of these sizes."""

    timm: str
    patch: int
    grid: int  # of the alignment: tokens along one side
    mean: tuple[float, ...]  # of red, green and blue
    std: tuple[float, ...]
    width: int = 0
    depth: int = 0
    heads: int = 0
    classes: int = 0  # of the classifier a small teacher was trained with


class Teacher:
    """Patch and cls features of images, from the last layer after its norm, prefix tokens (cls, registers) dropped.

    The network is on the device where it is to stay.
    """

    def __init__(self, config: TeacherConfig, network: "VisionTransformer"):
        self.config, self.network = config, network.eval().requires_grad_(False)
        device = next(network.parameters()).device
        self.mean, self.std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (config.mean, config.std))

    @property
    def dim(self) -> int:
        return self.network.embed_dim

    @torch.no_grad()
    def features(self, images: Tensor, grid: int | None = None) -> tuple[Tensor, Tensor]:
        """images [B, 3, H, W] in [0, 1] -> (patches [B, grid*grid, D] in row order, cls [B, D]), float32.

        Images are resized (bicubic, not antialiased: as REPA's reference feeds its encoders) to ``grid`` x patch
        pixels, so that tokens and latents match one to one (448 px for DINOv2 and 32x32 latents); the network resamples
        its own positions to that grid at each call. A network without a cls token (SigLIP's, I-JEPA's) gives the mean of its
        patches, its own way to pool.
        """
        side = (grid or self.config.grid) * self.config.patch
        if images.shape[-1] != side:
            images = F.interpolate(images, size=(side, side), mode="bicubic")
        tokens = self.network.forward_features((images - self.mean) / self.std)
        if isinstance(self.network.norm, nn.Identity):  # where the published model norms after pooling
            tokens = self.network.fc_norm(tokens)
        patches = tokens[:, self.network.num_prefix_tokens :].float()
        return patches, tokens[:, 0].float() if self.network.cls_token is not None else patches.mean(dim=1)


def config_of(spec: TeacherSpec, classes: int) -> TeacherConfig:
    """How to build and feed a teacher of the DAG; ``classes`` are those that one trained here tells apart."""
    if isinstance(spec, PretrainedTeacherSpec):
        return published(spec.model, spec.patch, spec.grid)
    return TeacherConfig("", spec.patch, spec.grid, (0.5,) * 3, (0.5,) * 3, spec.width, spec.depth, spec.heads, classes)


def published(model: str, patch: int, grid: int) -> TeacherConfig:
    """How to feed a timm model: with the pixel mean and std it was trained with. ValueError for a name timm does not have."""
    import timm

    architecture, _, tag = model.partition(".")
    known = [*timm.list_models(), *timm.list_pretrained()]
    if not timm.is_model(architecture) or (tag and model not in known):
        close = difflib.get_close_matches(model, known, n=1)
        raise ValueError(
            f"teachers: timm {timm.__version__} has no model '{model}'" + (f"; did you mean '{close[0]}'?" if close else "")
        )
    own = timm.get_pretrained_cfg(model)
    mean, std = (tuple(own.mean), tuple(own.std)) if own else (IMAGENET_MEAN, IMAGENET_STD)
    return TeacherConfig(model, patch, grid, mean, std)


def build(config: TeacherConfig, pretrained: bool = False) -> "VisionTransformer":
    """The network itself; ``pretrained`` loads timm's published weights from the hub or its cache.

    A timm model keeps its native positions (37x37 for DINOv2), so that each grid is resampled from those and not twice.
    Raises ValueError (one line) where the model has no patch grid or another patch size than ``config.patch``, or the
    weights are neither cached nor to be had.
    """
    import timm
    from timm.models.vision_transformer import VisionTransformer

    if not config.timm:
        return VisionTransformer(
            img_size=config.grid * config.patch, patch_size=config.patch, embed_dim=config.width,
            depth=config.depth, num_heads=config.heads, num_classes=config.classes,
            dynamic_img_size=True,  # REPA asks for another grid than the alignment's
        )  # fmt: skip
    try:
        network = timm.create_model(config.timm, pretrained=pretrained, num_classes=0, dynamic_img_size=True)
    except TypeError:  # its constructor knows no dynamic_img_size
        network = None
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"teachers: the weights of {config.timm} are not in the hub's cache and could not be fetched ({type(error).__name__}); "
            "run `reals fetch` where there is a network, or give weights: a local file"
        ) from None
    if network is None or not hasattr(network, "num_prefix_tokens") or not hasattr(network, "patch_embed"):
        raise ValueError(
            f"teachers: {config.timm} is no plain vision transformer with a patch grid; give one (e.g. a DINOv2, MAE or CLIP ViT)"
        )
    network = cast("VisionTransformer", network)  # or another class with its parts, as was just checked
    if tuple(network.patch_embed.patch_size) != (config.patch, config.patch):
        own = "x".join(map(str, network.patch_embed.patch_size))
        raise ValueError(f"teachers: {config.timm} has {own} patches; set patch to that, not {config.patch}")
    return network


def load_weights(network: nn.Module, weights: Path) -> None:
    """Loads a local file into a timm network: timm's own layout or the one a model was first published in.

    .safetensors, or a .pth of tensors alone: a pickle that holds code is refused. The file may be facebook's DINOv2 or
    MAE: timm's converter for the architecture is applied. ValueError (one line) where it cannot be read or lacks weights.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    files.refuse_unreadable(weights)
    try:
        state = (
            load_file(weights) if weights.suffix == ".safetensors" else torch.load(weights, map_location="cpu", weights_only=True)
        )
    except (SafetensorError, RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = str(error).split("\n")[0][:100]
        raise ValueError(f"teachers: {weights} is no .safetensors file or .pth of tensors alone, or damaged ({reason})") from None
    converter = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    try:
        state = converter(state, network) if converter else state
        result = network.load_state_dict({k: v for k, v in state.items() if not k.startswith("head.")}, strict=False)
    except (RuntimeError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"teachers: {weights} does not fit the model ({str(error).splitlines()[-1].strip()})") from None
    missing = [k for k in result.missing_keys if not k.startswith("head.")]
    if missing or result.unexpected_keys:
        what = f"lacks {missing[0]}" if missing else f"has {result.unexpected_keys[0]}, which the model lacks"
        raise ValueError(f"teachers: {weights} {what}; it is not this model's file")


def initialise_small_vit(network: "VisionTransformer") -> None:
    """Xavier-uniform matrices and positions N(0, 0.5).

    Our choice: timm's N(0, 0.02) is made for width 768; at width 64 it leaves attention uniform for hundreds of steps
    (58% against 90% held-out accuracy after 400 steps on the digits).
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    if network.pos_embed is not None:
        nn.init.normal_(network.pos_embed, std=0.5)


def save(teacher: nn.Module, config: TeacherConfig, folder: Path) -> list[str]:
    """Writes teacher.json and model.safetensors; returns their names."""
    from safetensors.torch import save_file

    write_json(folder / "teacher.json", asdict(config))
    state = {k: v.contiguous() for k, v in teacher.state_dict().items()}
    write_atomically(folder / "model.safetensors", lambda partial: save_file(state, partial))
    return ["teacher.json", "model.safetensors"]


def load(folder: Path, device: torch.device | str = "cpu") -> Teacher:
    from safetensors.torch import load_file

    values = files.read_json(folder / "teacher.json")
    try:
        config = TeacherConfig(**values | {name: tuple(values[name]) for name in ("mean", "std")})
    except (TypeError, KeyError) as error:
        raise ValueError(f"{folder / 'teacher.json'}: damaged ({error}); delete {folder} and run snakemake") from None
    network = build(config)
    files.refuse_unreadable(folder / "model.safetensors")
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return Teacher(config, network.to(device))


class OnlineFeatures:
    """Teacher features computed from the very images the autoencoder sees."""

    def __init__(self, teacher: Teacher, grid: int | None = None):
        self.teacher, self.grid = teacher, grid

    @classmethod
    def of(cls, folder: Path, device: torch.device, grid: int | None = None) -> "OnlineFeatures":
        """By the teacher in ``folder``, whose files are checked."""
        files.verified(folder)
        return cls(load(folder, device), grid)

    @property
    def dim(self) -> int:
        return self.teacher.dim

    def __call__(self, indices: Sequence[int] | np.ndarray, flips: np.ndarray | Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """images uint8 [B, 3, R, R], already mirrored -> (patches [B, T, D], cls [B, D]), float32."""
        return self.teacher.features(images.float() / 255, self.grid)


def pooled(patches: Tensor, grid: int) -> Tensor:
    """Patches [B, T, D] averaged onto a coarser ``grid`` x ``grid``: [B, grid*grid, D]. Unchanged where they fit.

    Our choice for scales whose transformer tokens are coarser than the cached features; at paper scale the teacher
    runs at the token grid itself, as REPA does. Raises ValueError where the grids do not divide.
    """
    side = round(patches.shape[1] ** 0.5)
    if side == grid:
        return patches
    if side % grid:
        raise ValueError(f"teacher features have a {side}x{side} grid, which does not divide into {grid}x{grid} tokens")
    k = side // grid
    return patches.unflatten(1, (grid, k, grid, k)).mean(dim=(2, 4)).flatten(1, 2)
