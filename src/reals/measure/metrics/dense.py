"""Dense predictions against ground truth: mIoU of class maps, AbsRel and delta1 of depth maps."""

import torch
from torch import Tensor

from reals.data.labelled import IGNORE

DELTA = 1.25  # Eigen et al. 2014


def confusion(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Pixels [classes, classes] int64 by true (row) and predicted (column) class; IGNORE in ``truth`` [...] does not count.

    Sums of it over batches are that of the whole. ValueError where a class is out of range.
    """
    counted = truth != IGNORE
    t, p = truth[counted].long(), predicted[counted].long()
    for name, values in (("true", t), ("predicted", p)):
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < classes:
            raise ValueError(f"mIoU: {name} classes {int(values.min())} to {int(values.max())}, expected 0 to {classes - 1}")
    return torch.bincount(t * classes + p, minlength=classes**2).view(classes, classes)


def mean_iou(matrix: Tensor) -> float:
    """Mean over the classes that occur, truly or as predicted, of intersection over union (VOC's protocol over a whole split)."""
    hits = matrix.diagonal().double()
    union = matrix.sum(0).double() + matrix.sum(1).double() - hits
    return float((hits / union)[union > 0].mean()) if (union > 0).any() else float("nan")


def aligned_depth(predicted: Tensor, truth: Tensor) -> Tensor:
    """``predicted`` [B, H, W] scaled and shifted, each image by least squares on its pixels of known depth (``truth`` > 0).

    For depth known up to scale and shift (MiDaS's protocol); a constant prediction becomes the mean depth.
    """
    known = (truth > 0).double()
    p, t = predicted.double(), truth.double()
    n = known.sum((1, 2)).clamp_min(1)
    mean_p, mean_t = (p * known).sum((1, 2)) / n, (t * known).sum((1, 2)) / n
    centred = (p - mean_p[:, None, None]) * known
    variance = centred.square().sum((1, 2))
    slope = (centred * t).sum((1, 2)) / variance.clamp_min(torch.finfo(torch.float64).tiny)
    slope = torch.where(variance > 0, slope, 0.0)
    return slope[:, None, None] * (p - mean_p[:, None, None]) + mean_t[:, None, None]


def depth_errors(predicted: Tensor, truth: Tensor) -> dict[str, float]:
    """``absrel`` (mean |p - t| / t) and ``delta1`` (share of max(p/t, t/p) < 1.25), each the mean over images of its mean over the
    pixels of known depth (``truth`` [B, H, W] > 0), as Eigen et al. 2014. A prediction that is not positive counts as far too near."""
    known = truth > 0
    some = known.flatten(1).any(1)
    if not some.any():
        return {"absrel": float("nan"), "delta1": float("nan")}
    n = known.sum((1, 2))[some].double()
    p, t = predicted.double(), torch.where(known, truth.double(), 1.0)
    relative = ((p - t).abs() / t * known).sum((1, 2))[some] / n
    near = p.clamp_min(torch.finfo(torch.float64).tiny)
    right = ((torch.maximum(near / t, t / near) < DELTA) & known).sum((1, 2))[some] / n
    return {"absrel": float(relative.mean()), "delta1": float(right.mean())}


def depth_correlation(one: Tensor, other: Tensor) -> float:
    """Pearson correlation of two depth maps [B, H, W], image by image, then the mean: -1 to 1; a constant map has none (0).

    For two predictions that are both known up to scale and shift, of which neither has the depths that relative errors divide by.
    """
    a, b = (maps.double().flatten(1) for maps in (one, other))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    size = (a.square().sum(1) * b.square().sum(1)).sqrt()
    return float(torch.where(size > 0, (a * b).sum(1) / size.clamp_min(torch.finfo(torch.float64).tiny), 0.0).mean())
