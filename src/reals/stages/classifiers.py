"""Stages `teacher` and `extractor`: the networks that teach and that measure, trained here or brought in."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reals import files, rng
from reals.data.dataset import Images
from reals.experiment.registry import Artefact
from reals.machine.usage import work
from reals.measure.extractors.inception import inception
from reals.measure.extractors.small_cnn import SmallCNN, SmallCNNConfig, initialise_small_cnn, save_small_cnn
from reals.method.models import teacher as teachers
from reals.stages.context import Context
from reals.stages.inputs import extractor_config
from reals.training import loop
from reals.training.batches import data_order
from reals.training.schedule import cosine, set_lr
from reals.training.task import Task

WEIGHT_DECAY = 0.05  # our choice: DeiT's


@dataclass
class ClassifierTask(Task):
    """Cross-entropy on the training split with small random shifts (and flips where the data allow them).

    ``inputs`` turns uint8 images [B, 3, R, R] into what the network takes. AdamW, cosine to zero. For a teacher that stands in
    for DINOv2: random resized crops (``crop_scale``) in place of shifts, and ``patch_loss`` times the mean cross-entropy of the
    patch tokens, each of which is to name the class too.
    """

    network: nn.Module
    inputs: object
    images: Images
    steps: int
    batch: int
    lr: float
    seed: int
    flip: bool
    crop_scale: tuple[float, float] | None = None
    patch_loss: float | None = None

    def __post_init__(self):
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=self.lr, weight_decay=WEIGHT_DECAY)

    def update(self, step: int) -> dict[str, Tensor]:
        indices = data_order(self.seed, step, self.batch, len(self.images))
        g = rng.generator(self.seed, "augmentation", step)
        flips = (torch.rand(self.batch, generator=g) < 0.5).numpy() if self.flip else None
        x = torch.from_numpy(self.images.batch(indices, flips)).to(self._device)
        x = cropped(x, self.crop_scale, g) if self.crop_scale else shifted(x, max(1, self.images.resolution // 32), g)
        y = torch.from_numpy(self.images.labels[indices]).to(self._device)
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
        tokens = self.network.forward_features(x)
        patches = self.network.head(tokens[:, self.network.num_prefix_tokens :]).transpose(1, 2)
        of_patches = F.cross_entropy(patches, y[:, None].expand(-1, patches.shape[2]))
        return F.cross_entropy(self.network.forward_head(tokens), y) + self.patch_loss * of_patches

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def state(self) -> dict:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


def shifted(x: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """x [B, C, H, W] moved by up to ``reach`` pixels each way, edges repeated; one draw per image."""
    height, width = x.shape[-2:]
    padded = F.pad(x.float(), (reach,) * 4, mode="replicate").to(x.dtype)
    offsets = torch.randint(0, 2 * reach + 1, (len(x), 2), generator=generator).tolist()
    return torch.stack([p[:, i : i + height, j : j + width] for p, (i, j) in zip(padded, offsets, strict=True)])


def cropped(x: Tensor, scale: tuple[float, float], generator: torch.Generator) -> Tensor:
    """x [B, C, H, W] uint8 as random crops at the same size: area a uniform share within ``scale``, aspect ratio log-uniform
    in 3/4..4/3 where the image is large enough for it (torchvision's and SimCLR's customary range); float32, bilinear."""
    area, ratio, across, down = torch.rand(4, len(x), generator=generator)
    area = scale[0] + (scale[1] - scale[0]) * area
    stretch = torch.exp((2 * ratio - 1) * math.log(4 / 3) / 2)
    width, height = (area.sqrt() * stretch).clamp(max=1), (area.sqrt() / stretch).clamp(max=1)
    theta = torch.zeros(len(x), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = width, height
    theta[:, 0, 2], theta[:, 1, 2] = (1 - width) * (2 * across - 1), (1 - height) * (2 * down - 1)
    grid = F.affine_grid(theta.to(x.device), list(x.shape), align_corners=False)
    return F.grid_sample(x.float(), grid, padding_mode="border", align_corners=False)


def initialise_small_vit(network: nn.Module) -> None:
    """Xavier-uniform matrices and positions N(0, 0.5).

    Our choice: timm's N(0, 0.02) is made for width 768; at width 64 it leaves attention uniform for hundreds of steps
    (58% against 90% held-out accuracy after 400 steps on the digits).
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    nn.init.normal_(network.pos_embed, std=0.5)


@torch.no_grad()
def accuracy(network: nn.Module, inputs, images: Images) -> float:
    """Share of a split classified rightly."""
    network.eval()
    device = next(network.parameters()).device
    right = 0
    for start in range(0, len(images), 256):
        indices = range(start, min(start + 256, len(images)))
        x = torch.from_numpy(images.batch(list(indices))).to(device)
        right += int((network(inputs(x)).argmax(1).cpu().numpy() == images.labels[list(indices)]).sum())
    return right / len(images)


def _train(context: Context, config, network: nn.Module, inputs, folder: Path, **settings) -> float:
    images = context.images("train")
    flip = context.scale.data.flip
    task = ClassifierTask(network, inputs, images, config.steps, config.batch, config.lr, config.seed, flip, **settings)
    loop.train(task, folder, config.steps, label=config.name)
    with work():
        return accuracy(network, inputs, context.images("held_out"))


def teacher(context: Context, artefact: Artefact) -> None:
    """Trains the scale's small ViT, or brings timm's weights into a folder of the same form."""
    config = next(c for k, c in context.scale.teachers.items() if context.registry.teachers[k].id == artefact.id)
    folder = context.begin(artefact)
    grid = context.scale.latent_size
    if config.kind == "timm":
        weights = Path(config.weights) if config.weights is not None else None
        if weights is not None:
            if not weights.is_file():
                raise ValueError(f"teachers: weights {weights}: no such file; give the weights of {config.model}")
            if config.sha256 not in (None, digest := files.sha256(weights)):
                raise ValueError(f"teachers: {weights}: its sha256 is {digest}, not {config.sha256}; fetch the file again")
        built = teachers.published(config.model, config.patch, grid)
        network = teachers.build(built, pretrained=weights is None)
        if weights is not None:
            teachers.load_weights(network, weights)
        files.seal(folder, teachers.save(network, built, folder), name=config.name)
        return
    images = context.images("train")
    built = teachers.TeacherConfig(
        "", config.patch, grid, (0.5,) * 3, (0.5,) * 3, config.width, config.depth, config.heads, len(images.classes)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.key(config.seed, "teacher weights"))
        network = teachers.build(built)
        initialise_small_vit(network)
        network = network.to(context.device)
    score = _train(
        context, config, network, lambda x: x.float() / 127.5 - 1, folder,
        crop_scale=config.crop_scale, patch_loss=config.patch_loss,
    )  # fmt: skip
    files.seal(folder, teachers.save(network, built, folder), name=config.name, held_out_accuracy=score)


def extractor(context: Context, artefact: Artefact) -> None:
    """Trains one of the scale's feature extractors, or verifies Inception's weights."""
    config = extractor_config(context, artefact)
    folder = context.begin(artefact)
    if config.kind == "inception":
        weights = Path(config.weights) if config.weights else None
        if weights is not None and not weights.is_file():
            raise ValueError(f"evaluation.extractor.weights: {weights}: no such file; give torch-fidelity's Inception weights")
        inception(weights, config.sha256)
        files.seal(
            folder, [], name=config.name, weights_sha256=files.sha256(weights) if weights else "torch-fidelity's own download"
        )
        return
    images = context.images("train")
    network = SmallCNN(SmallCNNConfig(len(images.classes), images.resolution, config.width, config.blocks or 1))
    initialise_small_cnn(network, rng.generator(config.seed, "extractor weights"))
    network = network.to(context.device, memory_format=torch.channels_last)
    score = _train(context, config, network, lambda x: x, folder)
    save_small_cnn(network.cpu(), folder)
    files.seal(folder, ["config.json", "model.safetensors"], name=config.name, held_out_accuracy=score)
