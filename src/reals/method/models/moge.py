"""MoGe-1's depth head on one map of features: an experiment, since the head was made for another backbone's four maps."""

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reals import tensors

WHERE = "downstream.depth.head"
REMAPS = {"linear": lambda z: z, "sinh": torch.sinh, "exp": torch.exp, "sinh_exp": torch.exp}
PIXELS_PER_TOKEN = 14  # DINOv2's patch, at which the last block works whatever size is asked for


def view_plane(side: int) -> Tensor:
    """Coordinates [2, side, side] (x, y) of a square image's pixel centres; its corners lie at distance 1 from the middle."""
    centres = (torch.arange(side) * 2 + 1 - side) / (side * 2**0.5)
    return torch.stack(torch.meshgrid(centres, centres, indexing="xy"))


def _conv(inputs: int, outputs: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, padding_mode="replicate")


class Residual(nn.Module):
    """Two pre-normed 3x3 convolutions beside the identity: [B, C, h, w] -> [B, C, h, w]."""

    def __init__(self, channels: int, hidden: int, norm: str):
        super().__init__()
        groups = hidden // 32 if norm == "group_norm" else 1
        self.layers = nn.Sequential(
            nn.GroupNorm(1, channels), nn.ReLU(), _conv(channels, hidden),
            nn.GroupNorm(groups, hidden), nn.ReLU(), _conv(hidden, channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class MoGeHead(nn.Module):
    """The head of MoGe-1 (Wang et al. 2024; names and sizes of its released model.pt) fed with one map in place of four.

    features [B, D, h, h] -> depth [B, size, size], known up to scale and shift: MoGe finds the shift from its point map, here it is
    left to the comparison. ``config`` is the file's model_config.
    """

    def __init__(self, dim: int, config: dict):
        super().__init__()
        maps = config.get("intermediate_layers", 4)
        projected, widths = config.get("dim_proj", 512), config.get("dim_upsample", [256, 128, 128])
        times, norm = config.get("dim_times_res_block_hidden", 1), config.get("res_block_norm", "group_norm")
        last = config.get("last_conv_channels", 32)
        self.remap = REMAPS[config.get("remap_output") or "linear"]
        self.projects = nn.ModuleList(nn.Conv2d(dim, projected, 1) for _ in range(maps if isinstance(maps, int) else len(maps)))
        self.upsample_blocks = nn.ModuleList(
            nn.Sequential(
                nn.Sequential(nn.ConvTranspose2d(before + 2, after, 2, stride=2), _conv(after, after)),
                *(Residual(after, times * after, norm) for _ in range(config.get("num_res_blocks", 1))),
            )
            for before, after in pairwise([projected, *widths])
        )
        # One block for points and one for the mask, which is not needed: the camera sees everything of a generated image.
        self.output_block = nn.ModuleList(
            nn.Sequential(
                _conv(widths[-1] + 2, last),
                *(Residual(last, times * last, norm) for _ in range(config.get("last_res_blocks", 0))),
                nn.ReLU(),
                _conv(last, out, config.get("last_conv_size", 1)),
            )
            for out in (3, 1)
        )

    def forward(self, features: Tensor, size: int) -> Tensor:
        x = torch.stack([project(features) for project in self.projects]).sum(0)
        for block in self.upsample_blocks:
            x = block(_with_view_plane(x))
        side = PIXELS_PER_TOKEN * features.shape[-1]
        points = self.output_block[0](_with_view_plane(_resize(x, side)))
        return self.remap(_resize(points, size)[:, 2])


def _with_view_plane(x: Tensor) -> Tensor:
    plane = view_plane(x.shape[-1]).to(x)
    return torch.cat([x, plane.expand(x.shape[0], -1, -1, -1)], dim=1)


def _resize(x: Tensor, side: int) -> Tensor:
    return F.interpolate(x, (side, side), mode="bilinear", align_corners=False)


def load(path: Path, dim: int) -> MoGeHead:
    """The head of a MoGe-1 file (model.pt: model_config, model) for features of ``dim`` channels, in eval mode.

    ValueError (one line) where the file is damaged, of another model (MoGe-2 has another head), or of a backbone of another width.
    """
    try:
        file, _ = tensors.read(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{WHERE}: {path} is no .pt of tensors, or damaged ({error})") from None
    config, model = (file.get("model_config"), file.get("model")) if isinstance(file, dict) else (None, None)
    if not isinstance(config, dict) or not isinstance(model, dict):
        raise ValueError(f"{WHERE}: {path} has no model_config and model; it is no file of MoGe-1")
    if config.get("remap_output") not in (*REMAPS, None, False) or not any(name.startswith("head.projects.") for name in model):
        raise ValueError(f"{WHERE}: {path} is not MoGe-1 (no head.projects, or another remap_output); MoGe-2's head is another")
    state = {name.removeprefix("head."): value for name, value in model.items() if name.startswith("head.")}
    width = state.get("projects.0.weight", torch.empty(0, 0)).shape[1]
    if width != dim:
        raise ValueError(f"{WHERE}: {path} reads {width} features, the teacher gives {dim}; it belongs to another backbone")
    head = MoGeHead(dim, config)
    try:
        tensors.check(path, state, head.state_dict())
    except ValueError as error:
        raise ValueError(f"{WHERE}: {path} does not fit its own model_config ({error})") from None
    head.load_state_dict(state)
    return head.eval().requires_grad_(False)
