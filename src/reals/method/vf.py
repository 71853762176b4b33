"""VA-VAE's alignment of latents with a vision foundation model: two losses with margins (Yao, Yang and Wang 2025, arXiv:2501.01423)."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from reals.method.alignment import AlignNetworks
from reals.method.objectives import Losses, wide

LARGEST_FACTOR = 1e8  # the authors' clamp of their adaptive weight


@dataclass(frozen=True)
class Margins:
    """How far a similarity may be off without loss: m1 of the cosine loss and m2 of the distance matrix loss (VA-VAE's values)."""

    cosine: float = 0.5
    distance: float = 0.25


def marginal_cosine(projected: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """Mean over tokens of ReLU(1 - m1 - cos(z'_i, f_i)) for z' and f [B, N, D]: each latent near the feature at its own place.

    In float32 or wider. VA-VAE, Section 3, "marginal cosine similarity loss"; ``vf_loss_2`` in the authors' code.
    """
    return F.relu(1 - margin - F.cosine_similarity(wide(projected), wide(teacher), dim=-1)).mean()


def marginal_distance(projected: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """Mean over an image's pairs of tokens of ReLU(|cos(z'_i, z'_j) - cos(f_i, f_j)| - m2), for z' and f [B, N, D].

    In float32 or wider. VA-VAE, Section 3, "marginal distance matrix similarity loss"; ``vf_loss_1`` in the authors' code, which
    compares the projected latents z' here too, as this does, where the paper writes z.
    """
    ours, theirs = (F.normalize(wide(tokens), dim=-1) for tokens in (projected, teacher))
    apart = ours @ ours.transpose(1, 2) - theirs @ theirs.transpose(1, 2)
    return F.relu(apart.abs() - margin).mean()


def vf_loss(networks: AlignNetworks, z: Tensor, patch: Tensor, margins: Margins = Margins()) -> Losses:
    """L_vf of sampled latents z [B, C, h, w] against teacher patches [B, h*w, D]: both losses with weight 1, as the authors have them.

    ``networks`` projects latents linearly, z' = W z (one layer without bias). Its weight is adaptive: VQGAN's ratio of gradient
    norms, here of the reconstruction's and this loss's at the encoder's last layer, times w_hyper (0.1 in the authors' setting).
    Raises ValueError where the teacher's grid is not the latents'.
    """
    projected, _ = networks(z)
    if projected is None or projected.shape != patch.shape:
        got = None if projected is None else tuple(projected.shape)
        raise ValueError(
            f"vf: teacher patch features are {tuple(patch.shape)}, the projected latents {got}; the teacher's grid must equal "
            f"{networks.grid}"
        )
    cosine = marginal_cosine(projected, patch, margins.cosine)
    distance = marginal_distance(projected, patch, margins.distance)
    return Losses(cosine + distance, {"patch_cosine": cosine.detach(), "patch_distance": distance.detach()})
