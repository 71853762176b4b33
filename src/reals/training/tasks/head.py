"""Heads read on features, and their training: AdamW at a constant rate, a few hundred steps, no state on disk."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reals import rng
from reals.data import labelled
from reals.data.dataset import Images
from reals.data.labelled import IGNORE, Pairs
from reals.data.readers import CachedFeatures
from reals.measure.heads import Reader
from reals.measure.metrics.unlabelled import ink
from reals.method.models import heads as networks
from reals.method.models.teacher import OnlineFeatures
from reals.progress import Progress
from reals.training.batches import Ahead, data_order


@dataclass(frozen=True)
class HeadSettings:
    """How every head of a downstream evaluation is trained, and where."""

    seed: int
    steps: int
    batch: int
    lr: float
    device: torch.device


def train_head(head: nn.Module, loss_at: Callable[[int], Tensor], settings: HeadSettings, label: str, subject: str) -> None:
    """Takes AdamW steps down ``loss_at(step)``, a function of the head's parameters; leaves the head frozen, in eval mode.

    FloatingPointError, which begins with ``subject``, where a loss is not finite.
    """
    head.train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=settings.lr, weight_decay=0.0)
    progress = Progress(label, settings.steps)
    for step in range(settings.steps):
        loss = loss_at(step)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"{subject} loss is not finite at step {step}; lower downstream.lr")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        progress.update(step + 1, loss=float(loss.detach()))
    head.eval().requires_grad_(False)


def trained_on_labels(
    kind: str, pairs: Pairs, reader: Reader, dim: int, name: str, size: int, settings: HeadSettings
) -> nn.Module:
    """A head of ``kind`` (segmentation or depth) on what ``reader`` gives for labelled images, at ``size`` x ``size`` pixels.

    ``name`` says what the features are of. Batches are a function of (seed, step).
    """
    segments = kind == "segmentation"
    head = networks.SegmentationHead(dim, labelled.classes(pairs.config)) if segments else networks.DepthHead(dim)
    networks.initialise(head, rng.generator(settings.seed, f"{kind} head on {name}"))
    head = head.to(settings.device)

    def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
        return pairs.batch(data_order(settings.seed, step, settings.batch, len(pairs)), size)

    batches = Ahead(batch)

    def loss_at(step: int) -> Tensor:
        pixels, truth = (torch.from_numpy(array).to(settings.device) for array in batches(step))
        with torch.no_grad():
            features = reader(pixels)
        predicted = head(features, size)
        if segments:
            # A batch whose every pixel is unlabelled has no mean.
            return F.cross_entropy(predicted, truth, ignore_index=IGNORE, reduction="sum") / (truth != IGNORE).sum().clamp_min(1)
        return networks.depth_loss(predicted, truth, bool(pairs.config.relative))

    with closing(batches):
        train_head(head, loss_at, settings, f"{kind} head on {name}", f"downstream: the {kind} head's")
    return head


def trained_on_ink(
    images: Images, teacher: CachedFeatures | OnlineFeatures, pixels_per_token: int, settings: HeadSettings
) -> networks.InkHeads:
    """Heads for the ink of images, on the teacher's true features of them: the generator's latents are never seen."""
    heads = networks.InkHeads(teacher.dim, pixels_per_token)
    with torch.no_grad():
        heads.out.weight.normal_(0, teacher.dim**-0.5, generator=rng.generator(settings.seed, "head weights"))
        heads.out.bias.zero_()
    heads = heads.to(settings.device)

    def batch(step: int) -> tuple[list[int], Tensor]:
        indices = data_order(settings.seed, step, settings.batch, len(images))
        return indices, torch.from_numpy(images.batch(indices))

    batches = Ahead(batch)

    def loss_at(step: int) -> Tensor:
        indices, pixels = batches(step)
        tokens, _ = teacher(indices, np.zeros(len(indices), bool), pixels.to(settings.device))
        mask, depth = heads(tokens.to(settings.device))
        true_mask, true_depth = (t.to(settings.device) for t in ink(pixels))
        return F.binary_cross_entropy_with_logits(mask, true_mask) + F.l1_loss(depth, true_depth)

    with closing(batches):
        train_head(heads, loss_at, settings, "heads", "downstream heads: the")
    return heads
