"""Improved precision and recall, in the ADM evaluator's definition."""

import torch
from torch import Tensor

from reals.metrics.features import finite_rows, same_width

_PAIRS_AT_ONCE = 1 << 13


def precision_recall(reference: Tensor, samples: Tensor, k: int = 3, block: int = 2048) -> tuple[float, float]:
    """(precision, recall) of samples [N, D] against reference [M, D]. Kynkäänniemi et al. 2019.

    Precision is the share of samples inside at least one reference ball, recall the share of reference rows
    inside at least one sample ball. The ball of a row reaches to its k-th nearest other row of the same set,
    boundary included. ADM takes 10,000 reference rows against all 50,000 samples; other counts change both
    numbers.

    Distances are squared, in float64, made from dot products in blocks of ``block`` rows. Where their
    rounding, at most 2 (D + 4) machine epsilons of the two squared norms, could decide a comparison, the pair
    is recomputed from its difference: copies have distance exactly 0 and ties count as inside. A radius is
    the exact distance to a row that is the k-th nearest up to that rounding. ADM itself computes in float16
    unless that overflows. ValueError for non-finite rows, unequal widths, or k not below M and N.
    """
    finite_rows(reference, "reference features")
    finite_rows(samples, "sample features")
    same_width(reference, samples, "precision_recall")
    if not 1 <= k < min(len(reference), len(samples)):
        raise ValueError(
            f"precision_recall: k is {k} with {len(reference)} reference and {len(samples)} sample rows; expected 1 <= k < both"
        )
    reference_radii = squared_radii(reference, k, block)
    sample_radii = squared_radii(samples, k, block)
    reference_in = torch.zeros(len(reference), dtype=torch.bool, device=reference.device)
    sample_in = torch.zeros(len(samples), dtype=torch.bool, device=samples.device)
    for i in range(0, len(reference), block):
        rows = reference[i : i + block].double()
        for j in range(0, len(samples), block):
            columns = samples[j : j + block].double()
            distances, error = _squared_distances(rows, columns)
            reference_in[i : i + block] |= _inside(rows, columns, sample_radii[j : j + block], distances, error)
            sample_in[j : j + block] |= _inside(columns, rows, reference_radii[i : i + block], distances.T, error)
    return float(sample_in.double().mean()), float(reference_in.double().mean())


def squared_radii(features: Tensor, k: int, block: int = 2048) -> Tensor:
    """Squared distance [N] (float64) of each row of features [N, D] to its k-th nearest other row."""
    radii = []
    for rows in features.split(block):
        rows = rows.double()
        nearest = torch.empty(len(rows), 0, dtype=torch.float64, device=rows.device)
        index = torch.empty(len(rows), 0, dtype=torch.int64, device=rows.device)
        for j in range(0, len(features), block):
            distances, _ = _squared_distances(rows, features[j : j + block].double())
            # The row itself is one of the k + 1 nearest, at distance 0.
            near = distances.topk(min(k + 1, distances.shape[1]), largest=False)
            nearest = torch.cat([nearest, near.values], dim=1)
            index = torch.cat([index, near.indices + j], dim=1)
            best = nearest.topk(min(k + 1, nearest.shape[1]), largest=False).indices
            nearest, index = nearest.gather(1, best), index.gather(1, best)
        exact = torch.stack([(rows - features[index[:, i]].double()).square().sum(dim=1) for i in range(k + 1)])
        radii.append(exact.amax(dim=0))
    return torch.cat(radii)


def _squared_distances(rows: Tensor, columns: Tensor) -> tuple[Tensor, float]:
    """Squared distances [A, B] by dot products, and a bound on their rounding error."""
    row_norms, column_norms = rows.square().sum(dim=1), columns.square().sum(dim=1)
    distances = torch.addmm(row_norms[:, None] + column_norms, rows, columns.T, alpha=-2)
    norms = float(row_norms.max() + column_norms.max())
    return distances, 2 * (rows.shape[1] + 4) * torch.finfo(torch.float64).eps * norms


def _inside(points: Tensor, centres: Tensor, radii: Tensor, distances: Tensor, error: float) -> Tensor:
    """[A] bool: is a point within some centre's squared radius? ``error`` bounds that of ``distances``."""
    gap = distances - radii
    nearest, best = gap.min(dim=1)
    inside = nearest < -error
    unsure = (~inside & (nearest <= error)).nonzero()[:, 0]
    inside[unsure] = _within(points[unsure], centres[best[unsure]], radii[best[unsure]])
    unsure = unsure[~inside[unsure]]
    pairs = (gap[unsure].abs() <= error).nonzero()
    for point, centre in (chunk.T for chunk in pairs.split(_PAIRS_AT_ONCE)):
        point = unsure[point]
        inside[point[_within(points[point], centres[centre], radii[centre])]] = True
    return inside


def _within(points: Tensor, centres: Tensor, radii: Tensor) -> Tensor:
    return (points - centres).square().sum(dim=1) <= radii
