"""The frozen vision transformer whose features the latents are aligned with."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reals.files import write_atomically, write_json

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TeacherConfig:
    """How to build and feed the network. ``timm`` is a timm model name, or '' for a plain ViT of these sizes."""

    timm: str
    patch: int
    grid: int  # of the alignment: tokens along one side
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    width: int = 0
    depth: int = 0
    heads: int = 0
    classes: int = 0  # of the classifier a small teacher was trained with


class Teacher:
    """Patch and cls features of images, from the last layer after its norm, prefix tokens dropped."""

    def __init__(self, config: TeacherConfig, network: nn.Module):
        self.config, self.network = config, network.eval().requires_grad_(False)

    @property
    def dim(self) -> int:
        return self.network.embed_dim

    @torch.no_grad()
    def features(self, images: Tensor, grid: int | None = None) -> tuple[Tensor, Tensor]:
        """images [B, 3, H, W] in [0, 1] -> (patches [B, grid*grid, D] in row order, cls [B, D]), float32.

        Images are resized (bicubic) to ``grid`` x patch pixels, so that tokens and latents match one to one
        (448 px for DINOv2 and 32x32 latents).
        """
        side = (grid or self.config.grid) * self.config.patch
        if images.shape[-1] != side:
            images = F.interpolate(images, size=(side, side), mode="bicubic", antialias=True)
        mean, std = (images.new_tensor(v).view(1, 3, 1, 1) for v in (self.config.mean, self.config.std))
        tokens = self.network.forward_features((images - mean) / std)
        return tokens[:, self.network.num_prefix_tokens :].float(), tokens[:, 0].float()


def build(config: TeacherConfig, weights: str | None = None, pretrained: bool = False) -> nn.Module:
    """The network itself; ``pretrained`` loads timm's published weights (from ``weights``, a local file, if given)."""
    import timm
    from timm.models.vision_transformer import VisionTransformer

    if not config.timm:
        return VisionTransformer(
            img_size=config.grid * config.patch, patch_size=config.patch, embed_dim=config.width,
            depth=config.depth, num_heads=config.heads, num_classes=config.classes,
            dynamic_img_size=True,  # REPA asks for another grid than the alignment's
        )  # fmt: skip
    overlay = {"file": weights} if weights else None
    return timm.create_model(
        config.timm, pretrained=pretrained, pretrained_cfg_overlay=overlay, num_classes=0,
        img_size=config.grid * config.patch, dynamic_img_size=True,
    )  # fmt: skip


def save(teacher: nn.Module, config: TeacherConfig, folder: Path) -> list[str]:
    """Writes teacher.json and model.safetensors; returns their names."""
    from safetensors.torch import save_file

    write_json(folder / "teacher.json", asdict(config))
    state = {k: v.contiguous() for k, v in teacher.state_dict().items()}
    write_atomically(folder / "model.safetensors", lambda partial: save_file(state, partial))
    return ["teacher.json", "model.safetensors"]


def load(folder: Path, device: torch.device | str = "cpu") -> Teacher:
    from safetensors.torch import load_file

    values = json.loads((folder / "teacher.json").read_text())
    config = TeacherConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    network = build(config)
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return Teacher(config, network.to(device))
