"""Heads read on features, and their training: AdamW at a constant rate, a few hundred steps, no state on disk."""

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

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
from reals.method.objectives import dense_cross_entropy
from reals.progress import Progress
from reals.training.batches import Ahead, data_order, on, pinned, sent

LOOK_EVERY = 10  # steps between looks at the loss, for which a GPU waits


@dataclass(frozen=True)
class HeadSettings:
    """How every head of a downstream evaluation is trained, and where."""

    seed: int
    steps: int
    batch: int
    lr: float
    device: torch.device


class Segmented(NamedTuple):
    """Images uint8 [B, 3, R, R] and the classes of their pixels [B, R, R]."""

    pixels: Tensor
    classes: Tensor


class Measured(NamedTuple):
    """Images uint8 [B, 3, R, R] and, as `networks.KnownDepths`, the depths of their pixels."""

    pixels: Tensor
    places: Tensor
    depths: Tensor
    counts: list[int]


class Drawn(NamedTuple):
    """Images uint8 [B, 3, R, R] and the ink in them, [B, R, R]: where it is, and how deep inside a stroke."""

    indices: list[int]
    pixels: Tensor
    mask: Tensor
    depth: Tensor


def train_head(head: nn.Module, loss_at: Callable[[int], Tensor], settings: HeadSettings, label: str, subject: str) -> None:
    """Takes AdamW steps down ``loss_at(step)``, a function of the head's parameters; leaves the head frozen, in eval mode.

    FloatingPointError, which begins with ``subject``, where a loss is not finite.
    """
    head.train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=settings.lr, weight_decay=0.0)
    progress = Progress(label, settings.steps)
    unseen: list[Tensor] = []
    for step in range(settings.steps):
        loss = loss_at(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        unseen.append(loss.detach())
        if len(unseen) == LOOK_EVERY or step + 1 == settings.steps:
            losses = torch.stack(unseen).tolist()
            for made, value in enumerate(losses, start=step + 1 - len(losses)):
                if not math.isfinite(value):
                    raise FloatingPointError(f"{subject} loss is not finite at step {made}; lower downstream.lr")
            progress.update(step + 1, loss=losses[-1])
            unseen.clear()
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

    def batch(step: int) -> Segmented | Measured:
        arrays = pairs.batch(data_order(settings.seed, step, settings.batch, len(pairs)), size)
        pixels, truth = (torch.from_numpy(array) for array in arrays)
        if segments:
            return pinned(Segmented(pixels, truth), settings.device)
        return pinned(Measured(pixels, *networks.known_depths(truth)), settings.device)

    batches = Ahead(batch)

    def loss_at(step: int) -> Tensor:
        seen = on(batches(step), settings.device)
        with torch.no_grad():
            features = reader(seen.pixels)
        predicted = head(features, size)
        if isinstance(seen, Segmented):
            # A batch whose every pixel is unlabelled has no mean.
            labelled_pixels = (seen.classes != IGNORE).sum().clamp_min(1)
            return dense_cross_entropy(predicted, seen.classes, IGNORE, "sum") / labelled_pixels
        known = networks.KnownDepths(seen.places, seen.depths, seen.counts)
        return networks.depth_loss(predicted, known, bool(pairs.config.relative))

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

    def batch(step: int) -> Drawn:
        indices = data_order(settings.seed, step, settings.batch, len(images))
        pixels = torch.from_numpy(images.batch(indices))
        return pinned(Drawn(indices, pixels, *ink(pixels)), settings.device)

    batches = Ahead(batch)

    def loss_at(step: int) -> Tensor:
        drawn = on(batches(step), settings.device)
        tokens, _ = teacher(drawn.indices, np.zeros(len(drawn.indices), bool), drawn.pixels)
        mask, depth = heads(sent(tokens, settings.device))
        return F.binary_cross_entropy_with_logits(mask, drawn.mask) + F.l1_loss(depth, drawn.depth)

    with closing(batches):
        train_head(heads, loss_at, settings, "heads", "downstream heads: the")
    return heads
