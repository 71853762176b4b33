"""The step of the classifiers that are trained here: stand-ins for a published teacher and for Inception."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reals import rng
from reals.data.dataset import Images
from reals.machine.usage import work
from reals.method.objectives import dense_cross_entropy
from reals.training import loop
from reals.training.batches import Ahead, data_order, mirrored, on, pinned, sent
from reals.training.processes import Processes
from reals.training.schedule import cosine, set_lr
from reals.training.task import Task
from reals.training.tasks.augmentation import cropped, shifted

if TYPE_CHECKING:  # timm is imported where it is used: it takes seconds
    from timm.models.vision_transformer import VisionTransformer

WEIGHT_DECAY = 0.05  # our choice: DeiT's


class Labelled(NamedTuple):
    """Images uint8 [B, 3, R, R] and their classes [B]."""

    pixels: Tensor
    classes: Tensor


@dataclass
class ClassifierTask(Task):
    """Cross-entropy on the training split with small random shifts (and flips where the data allow them).

    ``inputs`` turns uint8 images [B, 3, R, R] into what the network takes; ``among`` are the images trained on (None: all).
    AdamW, cosine to zero. For a teacher that stands in
    for DINOv2: random resized crops (``crop_scale``) in place of shifts, and ``patch_loss`` times the mean cross-entropy of the
    patch tokens, each of which is to name the class too.
    """

    network: nn.Module
    inputs: Callable[[Tensor], Tensor]
    images: Images
    steps: int
    batch: int
    lr: float
    seed: int
    flip: bool
    crop_scale: tuple[float, float] | None = None
    patch_loss: float | None = None
    shift: int | None = None
    among: np.ndarray | None = None
    batches: Ahead[Labelled] = field(init=False)

    def __post_init__(self) -> None:
        self.batches = Ahead(self.loaded)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=self.lr, weight_decay=WEIGHT_DECAY)

    def loaded(self, step: int) -> Labelled:
        """What a step sees, not augmented yet."""
        indices = np.array(data_order(self.seed, step, self.batch, len(self.images if self.among is None else self.among)))
        if self.among is not None:
            indices = self.among[indices]
        pixels, classes = torch.from_numpy(self.images.batch(indices)), torch.from_numpy(self.images.labels[indices])
        return pinned(Labelled(pixels, classes), self._device)

    def update(self, step: int) -> dict[str, Tensor | float]:
        g = rng.generator(self.seed, "augmentation", step)
        x, y = on(self.batches(step), self._device)
        if self.flip:
            x = mirrored(x, sent(torch.rand(self.batch, generator=g) < 0.5, self._device), self._device)
        x = (
            cropped(x, self.crop_scale, g)
            if self.crop_scale
            else shifted(x, self.shift or max(1, self.images.resolution // 32), g)
        )
        set_lr(self.optimizer, cosine(self.lr, step, self.steps))
        self.network.train()
        loss = self.loss(self.inputs(x), y)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        if self.patch_loss is None:
            return F.cross_entropy(self.network(x), y)
        network = cast("VisionTransformer", self.network)  # a teacher
        tokens = network.forward_features(x)
        patches = network.head(tokens[:, network.num_prefix_tokens :]).transpose(1, 2)
        of_patches = dense_cross_entropy(patches, y[:, None].expand(-1, patches.shape[2]))
        return F.cross_entropy(network.forward_head(tokens), y) + self.patch_loss * of_patches

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def state(self) -> dict:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


def part_of(n: int, share: tuple[float, float] | None, seed: int) -> np.ndarray | None:
    """Which of ``n`` images the share [from, to) of them is, in an order shuffled by the data's ``seed``; None where it is all.

    Shares that do not meet have no image in common. ValueError where none is left.
    """
    if share is None:
        return None
    chosen = rng.permutation(seed, "share of the training split", n=n)[round(share[0] * n) : round(share[1] * n)]
    if not len(chosen):
        raise ValueError(f"share: {list(share)} of {n} training images is none; widen it")
    return np.sort(chosen)


@torch.no_grad()
def accuracy(network: nn.Module, inputs: Callable[[Tensor], Tensor], images: Images) -> float:
    """Share of a split classified rightly."""
    network.eval()
    device = next(network.parameters()).device
    right = 0
    for start in range(0, len(images), 256):
        indices = range(start, min(start + 256, len(images)))
        x = torch.from_numpy(images.batch(list(indices))).to(device)
        right += int((network(inputs(x)).argmax(1).cpu().numpy() == images.labels[list(indices)]).sum())
    return right / len(images)


def train_classifier(task: ClassifierTask, folder: Path, label: str, held_out: Images, deterministic: bool) -> float:
    """Brings the task to its last step, from the newest state in ``folder``; the share of held-out images classified rightly."""
    loop.train(task, folder, task.steps, label=label, processes=Processes(deterministic=deterministic))
    with work():
        return accuracy(task.network, task.inputs, held_out)
