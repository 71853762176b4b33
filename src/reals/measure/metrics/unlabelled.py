"""Masks and depth without labels: the ink of bright strokes, and the foreground by a principal component."""

import numpy as np
import torch
from torch import Tensor, nn

INK = 0.5  # brightness above which a pixel is ink


def ink(images: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 [B, 3, R, R] of bright strokes on black -> (mask [B, R, R] in {0, 1}, depth [B, R, R] in pixels).

    The depth stand-in is the distance from each inked pixel to the nearest bare one: how deep inside the stroke it is.
    """
    from scipy.ndimage import distance_transform_edt

    mask = (images.float().mean(dim=1) / 255 > INK).numpy()
    depth = np.stack([distance_transform_edt(m) for m in mask]).astype(np.float32)
    return torch.from_numpy(mask.astype(np.float32)), torch.from_numpy(depth)


def ink_scores(heads: nn.Module, tokens: Tensor, images: Tensor) -> dict[str, float]:
    """IoU of the mask and mean absolute error of the depth (pixels, on true ink) against the images' own ink."""
    mask, depth = heads(tokens)
    true_mask, true_depth = ink(images)
    predicted, truth = (mask > 0).cpu(), true_mask > 0
    union = float((predicted | truth).sum())
    error = (depth.cpu() - true_depth).abs()[truth]
    return {"iou": float((predicted & truth).sum()) / union if union else 1.0,
            "depth_error": float(error.mean()) if len(error) else 0.0}  # fmt: skip


def foreground(tokens: Tensor) -> Tensor:
    """Label-free masks: the tokens' first principal component over the batch, min-max scaled to [0, 1]: [B, h, w].

    The sign is chosen so that the border, on the whole, is background.
    """
    b, t, d = tokens.shape
    flat = tokens.reshape(-1, d).double()
    centred = flat - flat.mean(dim=0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    side = round(t**0.5)
    value = (centred @ vectors[:, -1]).view(b, side, side)
    border = torch.ones(side, side, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    if value[:, border].mean() > value[:, ~border].mean():
        value = -value
    return ((value - value.min()) / (value.max() - value.min()).clamp_min(1e-12)).float()
