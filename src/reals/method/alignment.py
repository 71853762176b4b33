"""Representation alignment: the align networks (Eq. 1) and their loss (Eq. 2)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reals.method.objectives import Losses, wide


def mlp(inputs: int, hidden: int, outputs: int, layers: int, bias: bool = True) -> nn.Sequential:
    """``layers`` linear layers with GELU between them (Section 4.1: two); one layer is linear."""
    sizes = [inputs, *[hidden] * (layers - 1), outputs]
    modules: list[nn.Module] = []
    for before, after in zip(sizes[:-1], sizes[1:], strict=True):
        modules += [nn.Linear(before, after, bias), nn.GELU()]
    return nn.Sequential(*modules[:-1])


class AlignNetworks(nn.Module):
    """MLP_patch per token and MLP_cls on the spatially averaged latent; either may be absent (Table 5).

    Without ``bias``, one layer of patches alone is VA-VAE's projection. ``cells``: a token is that many latent cells along a side,
    their channels together; the paper's is one cell.
    """

    def __init__(
        self, latent_channels: int, dim: int, layers: int, hidden: int, patch: bool, cls: bool, bias: bool = True, cells: int = 1
    ):
        super().__init__()
        self.settings = {"latent_channels": latent_channels, "dim": dim, "layers": layers, "hidden": hidden, "patch": patch,
                         "cls": cls} | ({} if bias else {"bias": False}) | ({"cells": cells} if cells > 1 else {})  # fmt: skip
        self.cells = cells
        self.patch = mlp(latent_channels * cells**2, hidden, dim, layers, bias) if patch else None
        self.cls = mlp(latent_channels, hidden, dim, layers, bias) if cls else None

    @property
    def grid(self) -> str:
        """The grid of its tokens, in words: that of the teacher must equal it."""
        return "the latent grid" + (f" over {self.cells}" if self.cells > 1 else "")

    def forward(self, z: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """z [B, C, h, w], unscaled -> (patch features [B, h*w/cells^2, D] in row order, cls features [B, D])."""
        tokens = F.pixel_unshuffle(z, self.cells) if self.cells > 1 else z
        patch = self.patch(tokens.flatten(2).transpose(1, 2)) if self.patch is not None else None
        cls = self.cls(z.mean(dim=(2, 3))) if self.cls is not None else None
        return patch, cls


@dataclass(frozen=True)
class AlignWeights:
    """lambda_1 and lambda_2 of Eq. 2 and the turning point of the smooth L1 loss."""

    lambda_1: float = 0.9
    lambda_2: float = 0.1
    smooth_l1_beta: float = 1.0


def feature_loss(predicted: Tensor, teacher: Tensor, weights: AlignWeights) -> tuple[Tensor, Tensor, Tensor]:
    """Eq. 2 for features [..., D]: (weighted sum, cosine loss, smooth L1 loss), each the mean over all features.

    In float32 or wider: half precision overflows in the norms.
    """
    predicted, teacher = wide(predicted), wide(teacher)
    cosine = (1 - F.cosine_similarity(predicted, teacher, dim=-1)).mean()
    smooth = F.smooth_l1_loss(predicted, teacher, beta=weights.smooth_l1_beta)
    return weights.lambda_1 * cosine + weights.lambda_2 * smooth, cosine, smooth


def align_loss(networks: AlignNetworks, z: Tensor, patch: Tensor, cls: Tensor, weights: AlignWeights) -> Losses:
    """L_align of sampled latents z [B, C, h, w] against teacher patches [B, h*w/cells^2, D] and cls [B, D].

    The patch and the cls term count equally (our choice: the paper gives no weights between them).
    """
    predicted_patch, predicted_cls = networks(z)
    total = z.new_zeros(())
    parts: dict[str, Tensor] = {}
    for name, predicted, teacher in (("patch", predicted_patch, patch), ("cls", predicted_cls, cls)):
        if predicted is None:
            continue
        if predicted.shape != teacher.shape:
            raise ValueError(
                f"alignment: teacher {name} features are {tuple(teacher.shape)}, the align network gives "
                f"{tuple(predicted.shape)}; the teacher's grid must equal {networks.grid}"
            )
        loss, cosine, smooth = feature_loss(predicted, teacher, weights)
        total = total + loss
        parts |= {f"{name}_cosine": cosine.detach(), f"{name}_smooth_l1": smooth.detach()}
    return Losses(total, parts)


@torch.no_grad()
def initialise(networks: nn.Module, generator: torch.Generator) -> None:
    """torch's own linear initialisation, drawn from ``generator``: U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    for module in networks.modules():
        if isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            module.weight.uniform_(-bound, bound, generator=generator)
            if module.bias is not None:
                module.bias.uniform_(-bound, bound, generator=generator)
