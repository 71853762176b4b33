"""DINOv2 and CLIP, by timm, as feature extractors."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from reals.experiment.metric_table import CLIP_EXTRACTOR, DINOV2_EXTRACTOR
from reals.experiment.networks import SIDES, VIT_MODELS
from reals.machine.cores import cores
from reals.measure.extractor import Extractor, Features, check_bytes, check_weights, on_cpu


@dataclass(frozen=True)
class Vit:
    """An image tower of timm's: its name here, timm's name, the side in pixels it is fed with, which output is the feature, and
    who resizes the images to that side.
    """

    name: str
    timm: str
    side: int = 224
    projected: bool = False  # the output of the head (CLIP's shared space), else the pooled token before it
    pillow: bool = True  # bicubic by Pillow, which rounds to bytes; else by PyTorch, antialiased and unrounded


VITS = {
    # FD-DINOv2 (Stein et al. 2023, dgm-eval): the cls token after the last norm, 1024 wide, of images resized by Pillow.
    "dinov2": Vit(DINOV2_EXTRACTOR, VIT_MODELS["dinov2"], SIDES["dinov2"]),
    # CMMD (Jayasumana et al. 2024): OpenAI's ViT-L/14 at 336 pixels, its 768-wide image embedding, of images resized by Pillow.
    "clip-l-14-336": Vit(CLIP_EXTRACTOR, VIT_MODELS["clip-l-14-336"], SIDES["clip-l-14-336"], projected=True),
    # Kynkäänniemi et al. 2023 take CLIP's ViT-B/32: its 512-wide image embedding, before normalisation.
    "clip": Vit("clip-vit-b-32", "vit_base_patch32_clip_quickgelu_224.openai", projected=True, pillow=False),
}


def vision_transformer(vit: Vit, weights: Path | None, sha256: str | None = None) -> Extractor:
    """A row of ``VITS`` as an Extractor: pool features alone, so that it gives a Fréchet distance, precision, recall and KID.

    Bytes are resized to ``side`` pixels, scaled to [0, 1] and normalised with the mean and deviation of timm's table. Images of
    that side are taken as they are. ``weights`` is a local file in timm's or the authors' own layout; None takes timm's published
    ones from the hub. ValueError for a missing or wrong file.
    """
    import timm

    check_weights(weights, sha256)
    network = _network(vit, weights)
    statistics = timm.get_pretrained_cfg(vit.timm)
    assert statistics is not None
    mean, std = (255 * torch.tensor(v).view(1, 3, 1, 1) for v in (statistics.mean, statistics.std))

    @torch.no_grad()
    def features(images: Tensor) -> Features:
        check_bytes(images)
        if vit.pillow:
            x = by_pillow(images, vit.side).to(images.device).float()
        else:
            x = F.interpolate(images.float(), size=(vit.side, vit.side), mode="bicubic", antialias=True)
        pool = network((x - mean.to(x.device)) / std.to(x.device))
        return on_cpu(pool, pool.new_zeros(len(pool), 0, 1, 1), pool.new_zeros(len(pool), 0))

    return Extractor(vit.name, network, features)


def by_pillow(images: Tensor, side: int) -> Tensor:
    """uint8 [N, 3, H, W] -> uint8 [N, 3, side, side] on the CPU: Pillow's bicubic filter, to the bit."""

    def one(image: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))

    arrays = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    with ThreadPoolExecutor(cores()) as pool:
        return torch.from_numpy(np.stack(list(pool.map(one, arrays)))).permute(0, 3, 1, 2)


def _network(vit: Vit, weights: Path | None) -> nn.Module:
    """The tower with its weights, frozen, its positions resampled to the grid of ``vit.side`` pixels."""
    import timm
    from timm.models import load_state_dict
    from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

    classes: dict[str, Any] = {} if vit.projected else {"num_classes": 0}
    try:
        # At its own grid first: positions are resampled below, not by timm.
        network = timm.create_model(vit.timm, pretrained=weights is None, **classes)
        assert isinstance(network, VisionTransformer)
        if weights is not None:
            network.load_state_dict(checkpoint_filter_fn(load_state_dict(str(weights)), network))
    except Exception as error:  # of many kinds: no network, no such network, a file that is damaged or holds other things
        where = weights or f"{vit.timm} from the hub"
        raise ValueError(
            f"{vit.name}: {where} cannot be loaded ({' '.join(str(error).split())[:200]}); give {vit.timm}'s file with --weights"
        ) from None
    grid = network.patch_embed.grid_size[0]
    if vit.side // network.patch_embed.patch_size[0] != grid:
        own = network.pos_embed
        network.set_input_size((vit.side, vit.side))
        assert own is not None and network.pos_embed is not None
        with torch.no_grad():
            network.pos_embed.copy_(dinov2_positions(own.detach(), network.patch_embed.grid_size[0]))
    return network.requires_grad_(False).eval()


def dinov2_positions(positions: Tensor, grid: int) -> Tensor:
    """Positions [1, 1 + G G, D] (cls first) resampled to [1, 1 + grid grid, D] as DINOv2's hub models do."""
    side = math.isqrt(positions.shape[1] - 1)
    patches = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, scale_factor=((grid + 0.1) / side,) * 2, mode="bicubic")
    return torch.cat([positions[:, :1], patches.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
