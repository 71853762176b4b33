"""The transformer's step: one of the family's loss (SiT, DiT, REPA) on cached latents, then the EMA."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from reals import rng
from reals.data.dataset import Images
from reals.data.readers import CachedFeatures, Latents
from reals.experiment.specs import RunSpec
from reals.method import ddpm, objectives, paths
from reals.method.models.teacher import OnlineFeatures, pooled
from reals.method.models.transformer import Transformer, TransformerConfig
from reals.method.precision import autocast
from reals.training.batches import Ahead, data_order, mirrored, pinned, rows_of
from reals.training.ema import update_ema
from reals.training.processes import Processes, add_weighted
from reals.training.task import Task


class Batch(NamedTuple):
    """What one process needs of one step's batch, on the CPU; rows are samples."""

    indices: list[int]
    flips: Tensor
    x: Tensor
    noise: Tensor
    t: Tensor
    y: Tensor
    tokens: Tensor | None  # REPA: the teacher's, from the cache
    pixels: Tensor | None  # REPA: images, for a teacher that runs along; not mirrored yet


class TransformerTask(Task):
    """One AdamW step of the family's loss on one batch, then the EMA. What is random is keyed by the step's number."""

    batches: Ahead[Batch]

    def __init__(self, spec: RunSpec, model: Transformer, latents: Latents, labels: Tensor, processes: Processes,
                 teacher: CachedFeatures | OnlineFeatures | None = None, images: Images | None = None):  # fmt: skip
        self.spec, self.latents, self.labels, self.processes = spec, latents, labels, processes
        self.teacher, self.images = teacher, images
        self.rows = processes.rows(spec.batch)
        self.network = processes.prepare(model)
        self.model, self.device = model, processes.device
        self.weights = list(model.state_dict().values())
        self.ema = {name: value.detach().clone() for name, value in model.state_dict().items()}
        trained = [p for p in model.parameters() if p.requires_grad]
        fused = self.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(trained, lr=spec.lr, betas=(0.9, 0.999), weight_decay=0.0, fused=fused)
        self.schedule = ddpm.linear_schedule().to(self.device) if spec.family == "DiT" else None
        self.batches: Ahead[Batch] = Ahead(self.batch)
        self.rehearsed = processes.count < 3

    def batch(self, step: int) -> Batch:
        """This process's rows of the step's batch. All is drawn for the global batch, so that the split does not matter."""
        spec, seed, n = self.spec, self.spec.seed, self.spec.batch

        def draw(purpose: str) -> torch.Generator:
            return rng.generator(seed, purpose, step)

        indices = data_order(seed, step, n, len(self.latents))
        flips = (torch.rand(n, generator=draw("flip")) < 0.5) & spec.flip
        shape = (n, spec.latent_channels, spec.latent_size, spec.latent_size)
        posterior = torch.randn(shape, generator=draw("posterior"))
        noise = torch.randn(shape, generator=draw("noise"))
        y = objectives.drop_labels(
            self.labels[indices], torch.rand(n, generator=draw("label dropout")), spec.label_dropout, self.model.config.classes
        )
        if self.schedule is not None:
            t = torch.randint(0, len(self.schedule), (n,), generator=draw("time"))
        elif spec.times == "logit-normal":
            t = objectives.logit_normal(torch.randn(n, generator=draw("time")))
        else:
            t = torch.rand(n, generator=draw("time"))
        rows = self.rows
        mine, flips = indices[rows], flips[rows]
        tokens = pixels = None
        if self.images is not None:
            pixels = torch.from_numpy(self.images.batch(mine))
        elif self.teacher is not None and not isinstance(self.teacher, OnlineFeatures):
            tokens = pooled(self.teacher(mine, flips, None)[0], spec.latent_size // spec.patch)
        x = self.latents.batch(mine, flips, posterior[rows])
        return pinned(Batch(mine, flips, x, noise[rows], t[rows], y[rows], tokens, pixels), self.device)

    def update(self, step: int) -> dict[str, Tensor | float]:
        batch = self.batches(step)
        if not self.rehearsed:
            # DistributedDataParallel regroups what it sums after its first backward pass. With three processes or more
            # the grouping changes the last bits, and a resumed run would differ from one that was not interrupted.
            self.gradient(batch)
            self.optimizer.zero_grad(set_to_none=True)
            self.rehearsed = True
        record = self.gradient(batch)
        clip = self.spec.repa.grad_clip if self.spec.repa else None
        record["grad_norm"] = self.processes.step(self.optimizer, clip)
        update_ema(list(self.ema.values()), self.weights, self.spec.ema)
        return {**record, "lr": self.spec.lr}

    def gradient(self, batch: Batch) -> dict[str, Tensor]:
        """Adds the gradient of the mean loss; the loss terms."""
        record: dict[str, Tensor] = {}
        for share in self.processes.shares(self.spec.batch):
            rows = slice(share.rows.start - self.rows.start, share.rows.stop - self.rows.start)
            with self.processes.exchange(self.network, share):
                losses = self.losses(rows_of(batch, rows))
                self.processes.backward(losses.total, share)
            add_weighted(record, {"loss": losses.total.detach(), **losses.parts}, share.weight)
        return record

    def losses(self, batch: Batch) -> objectives.Losses:
        x, noise, t, y = (v.to(self.device, non_blocking=True) for v in (batch.x, batch.noise, batch.t, batch.y))
        if self.schedule is not None:
            return objectives.ddpm_loss(self.call, self.schedule, x, y, t, noise)
        if self.teacher is None:
            return objectives.flow_loss(self.call, x, y, t, noise, paths.PATHS[self.spec.interpolant or "linear"])
        repa, tokens = self.spec.repa, batch.tokens
        assert repa is not None, "a teacher of a run that is no REPA"
        if batch.pixels is not None:
            with autocast(self.device, repa.teacher_precision or "fp32"):
                patches, _ = self.teacher(batch.indices, batch.flips, mirrored(batch.pixels, batch.flips, self.device))
            tokens = pooled(patches, self.spec.latent_size // self.spec.patch)
        assert tokens is not None, "a teacher, but neither its tokens nor the images"
        tokens = tokens.to(self.device, non_blocking=True)
        return objectives.repa_loss(self.call_projecting, x, y, t, noise, tokens, repa.coefficient)

    def call(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        with self.processes.autocast():
            return self.network(x, t, y)

    def call_projecting(self, x: Tensor, t: Tensor, y: Tensor, project: bool) -> tuple[Tensor, Tensor]:
        with self.processes.autocast():
            return self.network(x, t, y, project=project)

    @torch.no_grad()
    def extras(self) -> dict[str, Tensor]:
        """``ema_drift``: ||EMA - weights|| / ||weights||."""
        away, whole = (
            torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
            for tensors in (torch._foreach_sub(list(self.ema.values()), self.weights), self.weights)
        )
        return {"ema_drift": away / whole}

    def state(self) -> dict:
        return {"model": self.model.state_dict(), "ema": self.ema, "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, value in state["ema"].items():
            self.ema[name].copy_(value)


def network_config(spec: RunSpec, classes: int, teacher_dim: int | None) -> TransformerConfig:
    """A run's network; ``teacher_dim`` is the width of the features that REPA's projector gives."""
    repa = spec.repa
    return TransformerConfig(
        width=spec.width, depth=spec.depth, heads=spec.heads, patch=spec.patch,
        latent_channels=spec.latent_channels, latent_size=spec.latent_size, classes=classes,
        learn_sigma=spec.learn_sigma, label_dropout=spec.label_dropout,
        projector_depth=repa.depth if repa else None, projector_dim=teacher_dim if repa else None,
        **({"projector_hidden": repa.hidden} if repa else {}),
    )  # fmt: skip


def checkpoint_blocks(model: Transformer) -> None:
    """From now on each block keeps its input alone and computes its activations again in the backward pass."""
    for block in model.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
