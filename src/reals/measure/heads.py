"""Heads scored against ground truth on labelled images, whatever features they are fed with."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from reals.data import labelled
from reals.data.labelled import Pairs
from reals.experiment.datasets import LabelsConfig
from reals.measure.metrics import dense

BATCH = 32
Reader = Callable[[Tensor], Tensor]
"""Bytes [B, 3, R, R] -> a map of features [B, D, h, w]."""


@torch.no_grad()
def predictions(
    head: nn.Module, reader: Reader, pairs: Pairs, resolution: int, device: torch.device | str
) -> Iterator[tuple[Tensor, Tensor]]:
    """(the head's output, the truth) of all pairs, a batch at a time, on the CPU."""
    for start in range(0, len(pairs), BATCH):
        pixels, truth = pairs.batch(range(start, min(start + BATCH, len(pairs))), resolution)
        yield head(reader(torch.from_numpy(pixels).to(device)), resolution).cpu(), torch.from_numpy(truth)


def score(config: LabelsConfig, batches: Iterator[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """mIoU over the split, or AbsRel and delta1, means over its images."""
    if config.layout != "depth":
        confusions = (dense.confusion(logits.argmax(1), truth, labelled.classes(config)) for logits, truth in batches)
        matrix = sum(confusions, torch.zeros((), dtype=torch.int64))
        return {"miou": dense.mean_iou(matrix)}
    total: dict[str, float] = {}
    images = 0
    for predicted, truth in batches:
        known = int((truth > 0).flatten(1).any(1).sum())
        if known:
            images += known
            for metric, value in dense.depth_errors(*_comparable(config, predicted, truth)).items():
                total[metric] = total.get(metric, 0.0) + known * value
    return {metric: value / images for metric, value in total.items()}


def _comparable(config: LabelsConfig, predicted: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Depth known up to scale and shift is brought to the truth's first."""
    return (dense.aligned_depth(predicted, truth) if config.relative else predicted), truth
