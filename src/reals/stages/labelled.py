"""Segmentation and depth heads trained on true teacher features of labelled images, read on aligned latents (Section 4.4)."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reals import files, rng
from reals.data import labelled
from reals.data.labelled import IGNORE, Pairs
from reals.experiment.artefact import Artefact
from reals.measure.metrics import dense
from reals.method.models import autoencoder as models
from reals.method.models import heads as networks
from reals.method.models import teacher as teachers
from reals.progress import Progress
from reals.stages.context import Context
from reals.training.batches import Ahead, data_order

BATCH = 32  # of what is scored
PairBatch = tuple[np.ndarray, np.ndarray]
Reader = Callable[[Tensor], Tensor]
"""Bytes [B, 3, R, R] -> a map of features [B, D, h, w]."""


class Sources(NamedTuple):
    """What heads can be fed with: the teacher's features, the align network's of latents, the base's latents themselves."""

    teacher: Reader
    align: Reader
    base: Reader
    of_latents: Callable[[Tensor], Tensor]  # the align network's features of latents [B, C, h, w], unscaled
    teacher_name: str
    dim: int
    channels: int


def sources(context: Context, artefact: Artefact) -> Sources:
    registry, device = context.registry, context.device
    aligned = registry.folder(artefact.needed("samples").needed("autoencoder"))
    base = registry.folder(artefact.needed("autoencoder"))
    teacher_folder = registry.folder(artefact.needed("teacher"))
    for folder in (aligned, base, teacher_folder):
        files.verified(folder)
    teacher = teachers.load(teacher_folder, device)
    align, vae, start = models.load_align(aligned, device), models.load(aligned, device), models.load(base, device)

    def of_latents(z: Tensor) -> Tensor:
        return networks.as_map(align(z)[0])

    return Sources(
        lambda x: networks.as_map(teacher.features(x.float() / 255)[0]),
        lambda x: of_latents(models.moments(vae, models.to_input(x))[0]),
        lambda x: models.moments(start, models.to_input(x))[0],
        of_latents, teacher.config.timm, teacher.dim, context.scale.latent.channels,
    )  # fmt: skip


def run(context: Context, artefact: Artefact, z: Tensor, images: np.ndarray) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """(values, arrays for Figure 4) of generated latents z [k, C, h, w] (unscaled) and their decoded images [k, 3, R, R].

    For each kind of label a head is trained on the teacher's features, frozen, and then scored against ground truth on held-out
    images: on the teacher's own features (``..._teacher``, the ceiling), on the align network's of encoded images (``..._align``);
    and a probe of the same form, trained on the base's latents, on those (``..._base``, the floor). On the generated: the agreement
    of the head on their latents with the head on the teacher's features of the decoded images (``..._generated``).
    """
    config, resolution = context.scale.downstream, context.scale.data.resolution
    found = sources(context, artefact)
    values: dict[str, float] = {}
    arrays: dict[str, np.ndarray] = {}
    decoded = torch.from_numpy(images).to(context.device)
    for kind, labels in (("segmentation", config.segmentation), ("depth", config.depth)):
        if labels is None:
            continue
        splits = labelled.pairs(labels, f"downstream.{kind}")
        if labels.head is not None:
            classes = labelled.classes(labels)
            head = networks.published(Path(labels.head), labels.layout, found.teacher_name, found.dim, classes).to(context.device)
        else:
            head = train(context, artefact, kind, splits["train"], found.teacher, found.dim, "teacher")
        probe = train(context, artefact, kind, splits["train"], found.base, found.channels, "base")
        for name, network, reader in (
            ("teacher", head, found.teacher),
            ("align", head, found.align),
            ("base", probe, found.base),
        ):
            scored = score(labels, predictions(network, reader, splits["held_out"], resolution, context.device))
            values |= {f"{metric}_{name}": value for metric, value in scored.items()}
        with torch.no_grad():
            seen, true = head(found.of_latents(z.to(context.device)), resolution), head(found.teacher(decoded), resolution)
        if kind == "segmentation":
            seen, true = seen.argmax(1).cpu(), true.argmax(1).cpu()
            arrays["classes"] = seen.numpy().astype(np.uint8)
            values["miou_generated"] = dense.mean_iou(dense.confusion(seen, true, labelled.classes(labels)))
        else:
            arrays["depth"] = seen.cpu().numpy()
            if labels.relative:
                values["correlation_generated"] = dense.depth_correlation(seen.cpu(), true.cpu())
            else:
                errors = dense.depth_errors(seen.cpu(), true.cpu())
                values |= {f"{metric}_generated": value for metric, value in errors.items()}
    return values, arrays


def train(context: Context, artefact: Artefact, kind: str, pairs: Pairs, reader: Reader, dim: int, name: str) -> nn.Module:
    """A head of ``kind`` on what ``reader`` gives for labelled images: AdamW, a constant rate, batches by (seed, step)."""
    spec, resolution, device = artefact.spec, context.scale.data.resolution, context.device
    segments = kind == "segmentation"
    head = networks.SegmentationHead(dim, labelled.classes(pairs.config)) if segments else networks.DepthHead(dim)
    networks.initialise(head, rng.generator(spec["seed"], f"{kind} head on {name}"))
    head = head.to(device).train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=spec["lr"], weight_decay=0.0)
    progress = Progress(f"{kind} head on {name}", spec["steps"])

    def batch(step: int) -> PairBatch:
        return pairs.batch(data_order(spec["seed"], step, spec["batch"], len(pairs)), resolution)

    batches = Ahead(batch)
    for step in range(spec["steps"]):
        pixels, truth = (torch.from_numpy(array).to(device) for array in batches(step))
        with torch.no_grad():
            features = reader(pixels)
        predicted = head(features, resolution)
        if segments:
            # A batch whose every pixel is unlabelled has no mean.
            loss = F.cross_entropy(predicted, truth, ignore_index=IGNORE, reduction="sum") / (truth != IGNORE).sum().clamp_min(1)
        else:
            loss = networks.depth_loss(predicted, truth, bool(pairs.config.relative))
        if not torch.isfinite(loss):
            raise FloatingPointError(f"downstream: the {kind} head's loss is not finite at step {step}; lower downstream.lr")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        progress.update(step + 1, loss=float(loss.detach()))
    return head.eval().requires_grad_(False)


@torch.no_grad()
def predictions(head: nn.Module, reader: Reader, pairs: Pairs, resolution: int, device) -> Iterator[tuple[Tensor, Tensor]]:
    """(the head's output, the truth) of all pairs, a batch at a time, on the CPU."""
    for start in range(0, len(pairs), BATCH):
        pixels, truth = pairs.batch(range(start, min(start + BATCH, len(pairs))), resolution)
        yield head(reader(torch.from_numpy(pixels).to(device)), resolution).cpu(), torch.from_numpy(truth)


def score(config, batches: Iterator[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """mIoU over the split, or AbsRel and delta1, means over its images."""
    if config.layout != "depth":
        matrix = sum(dense.confusion(logits.argmax(1), truth, labelled.classes(config)) for logits, truth in batches)
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


def _comparable(config, predicted: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Depth known up to scale and shift is brought to the truth's first."""
    return (dense.aligned_depth(predicted, truth) if config.relative else predicted), truth


def described(context: Context) -> dict[str, str]:
    """What a reader must know beside the numbers."""
    config, facts = context.scale.downstream, {}
    if config.segmentation is not None:
        head = "published linear head" if config.segmentation.head else "BatchNorm and 1x1 convolution trained here"
        facts["segmentation"] = f"{config.segmentation.name} ({config.segmentation.layout}): {head}; mIoU over the held-out split"
    if config.depth is not None:
        how = "after scale and shift by least squares for each image" if config.depth.relative else "as predicted, no alignment"
        head = (
            "MoGe's head, experimental, on one last-layer map in place of its own backbone's four"
            if config.depth.head
            else "head trained here"
        )
        facts["depth"] = f"{config.depth.name}: {head}; AbsRel and delta1 {how}, means over images"
    return facts
