"""Stage `transformer`: DiT, SiT or REPA on cached latents, one milestone after the other."""

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from reals import files, rng
from reals.data.dataset import Images
from reals.data.readers import CachedFeatures, Latents
from reals.experiment.registry import Artefact
from reals.method import ddpm, objectives, paths
from reals.method.models import autoencoder as autoencoders
from reals.method.models.teacher import OnlineFeatures, pooled
from reals.method.models.transformer import Transformer, TransformerConfig, initialise
from reals.method.sampling import Sampling, decode, draw
from reals.planning import flops, rates
from reals.stages.context import Context
from reals.stages.inputs import weights_path
from reals.training import loop
from reals.training.batches import Ahead, data_order
from reals.training.ema import update_ema
from reals.training.processes import Processes, add_weighted
from reals.training.states import States
from reals.training.task import Task


def network_config(spec: dict, classes: int, teacher_dim: int | None) -> TransformerConfig:
    repa = spec.get("repa")
    return TransformerConfig(
        width=spec["width"], depth=spec["depth"], heads=spec["heads"], patch=spec["patch"],
        latent_channels=spec["latent_channels"], latent_size=spec["latent_size"], classes=classes,
        learn_sigma=spec["learn_sigma"], label_dropout=spec["label_dropout"],
        projector_depth=repa and repa["depth"], projector_dim=repa and teacher_dim,
        **({"projector_hidden": repa["hidden"]} if repa else {}),
    )  # fmt: skip


PICTURES, COLUMNS = 16, 8


class Batch(NamedTuple):
    """What one process needs of one step's batch, on the CPU; rows are samples."""

    indices: list[int]
    flips: np.ndarray
    x: Tensor
    noise: Tensor
    t: Tensor
    y: Tensor
    tokens: Tensor | None  # REPA: the teacher's, from the cache
    pixels: Tensor | None  # REPA: images, for a teacher that runs along


class TransformerTask(Task):
    """One AdamW step of the family's loss on one batch, then the EMA. What is random is keyed by the step's number."""

    def __init__(self, spec: dict, model: Transformer, latents: Latents, labels: Tensor, processes: Processes,
                 teacher=None, images: Images | None = None):  # fmt: skip
        self.spec, self.latents, self.labels, self.processes = spec, latents, labels, processes
        self.teacher, self.images = teacher, images
        self.rows = processes.rows(spec["batch"])
        self.network = processes.prepare(model)
        self.model, self.device = model, processes.device
        self.weights = list(model.state_dict().values())
        self.ema = {name: value.detach().clone() for name, value in model.state_dict().items()}
        trained = [p for p in model.parameters() if p.requires_grad]
        fused = self.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(trained, lr=spec["lr"], betas=(0.9, 0.999), weight_decay=0.0, fused=fused)
        self.schedule = ddpm.linear_schedule() if spec["family"] == "DiT" else None
        self.batches = Ahead(self.batch)
        self.rehearsed = processes.count < 3

    def batch(self, step: int) -> Batch:
        """This process's rows of the step's batch. All is drawn for the global batch, so that the split does not matter."""
        spec, seed, n = self.spec, self.spec["seed"], self.spec["batch"]

        def draw(purpose: str) -> torch.Generator:
            return rng.generator(seed, purpose, step)

        indices = data_order(seed, step, n, len(self.latents))
        flips = (torch.rand(n, generator=draw("flip")) < 0.5).numpy() & spec["flip"]
        shape = (n, spec["latent_channels"], spec["latent_size"], spec["latent_size"])
        posterior = torch.randn(shape, generator=draw("posterior"))
        noise = torch.randn(shape, generator=draw("noise"))
        y = objectives.drop_labels(
            self.labels[indices], torch.rand(n, generator=draw("label dropout")), spec["label_dropout"], self.model.config.classes
        )
        if self.schedule is not None:
            t = torch.randint(0, len(self.schedule), (n,), generator=draw("time"))
        else:
            t = torch.rand(n, generator=draw("time"))
        rows = self.rows
        mine, flips = indices[rows], flips[rows]
        tokens = pixels = None
        if self.images is not None:
            pixels = torch.from_numpy(self.images.batch(mine, flips))
        elif self.teacher is not None:
            tokens = pooled(self.teacher(mine, flips, None)[0], spec["latent_size"] // spec["patch"])
        x = self.latents.batch(mine, flips, posterior[rows])
        made = Batch(mine, flips, x, noise[rows], t[rows], y[rows], tokens, pixels)
        if self.device.type == "cuda":
            made = Batch(*(v.pin_memory() if isinstance(v, Tensor) else v for v in made))
        return made

    def update(self, step: int) -> dict[str, Tensor | float]:
        batch = self.batches(step)
        if not self.rehearsed:
            # DistributedDataParallel regroups what it sums after its first backward pass. With three processes or more
            # the grouping changes the last bits, and a resumed run would differ from one that was not interrupted.
            self.gradient(batch)
            self.optimizer.zero_grad(set_to_none=True)
            self.rehearsed = True
        record = self.gradient(batch)
        clip = self.spec["repa"]["grad_clip"] if "repa" in self.spec else None
        record["grad_norm"] = self.processes.step(self.optimizer, clip)
        update_ema(list(self.ema.values()), self.weights, self.spec["ema"])
        return {**record, "lr": self.spec["lr"]}

    def gradient(self, batch: Batch) -> dict[str, Tensor]:
        """Adds the gradient of the mean loss; the loss terms."""
        record: dict[str, Tensor] = {}
        for share in self.processes.shares(self.spec["batch"]):
            rows = slice(share.rows.start - self.rows.start, share.rows.stop - self.rows.start)
            with self.processes.exchange(self.network, share):
                losses = self.losses(Batch(*(v if v is None else v[rows] for v in batch)))
                self.processes.backward(losses.total, share)
            add_weighted(record, {"loss": losses.total.detach(), **losses.parts}, share.weight)
        return record

    def losses(self, batch: Batch) -> objectives.Losses:
        x, noise, t, y = (v.to(self.device, non_blocking=True) for v in (batch.x, batch.noise, batch.t, batch.y))
        if self.schedule is not None:
            return objectives.ddpm_loss(self.call, self.schedule, x, y, t, noise)
        if self.teacher is None:
            path = self.spec.get("path") or "linear"
            return objectives.flow_loss(self.call, x, y, t, noise, paths.PATHS[path])
        tokens = batch.tokens
        if batch.pixels is not None:
            patches, _ = self.teacher(batch.indices, batch.flips, batch.pixels.to(self.device, non_blocking=True))
            tokens = pooled(patches, self.spec["latent_size"] // self.spec["patch"])
        tokens = tokens.to(self.device, non_blocking=True)
        return objectives.repa_loss(self.call, x, y, t, noise, tokens, self.spec["repa"]["coefficient"])

    def call(self, *arguments, **named):
        with self.processes.autocast():
            return self.network(*arguments, **named)

    @torch.no_grad()
    def extras(self) -> dict[str, Tensor]:
        """``ema_drift``: ||EMA - weights|| / ||weights||."""
        away = torch.stack([torch.linalg.vector_norm(e - w) for e, w in zip(self.ema.values(), self.weights, strict=True)])
        whole = torch.stack([torch.linalg.vector_norm(w) for w in self.weights])
        return {"ema_drift": torch.linalg.vector_norm(away) / torch.linalg.vector_norm(whole)}

    def state(self) -> dict:
        return {"model": self.model.state_dict(), "ema": self.ema, "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, value in state["ema"].items():
            self.ema[name].copy_(value)


class Pictures:
    """Draws a small fixed grid of images by the EMA through the real sampler and decoder: a look at where training stands.

    Sample k has class k mod classes and its own noise, the same each time. Nothing here is shared with the training but
    the EMA's values, so a run with pictures has the bits of one without.
    """

    def __init__(self, task: TransformerTask, autoencoder: Path, scaling_factor: float, steps: int):
        self.task, self.autoencoder, self.scaling_factor = task, autoencoder, scaling_factor
        self.sampling = Sampling("ddpm" if task.spec["family"] == "DiT" else "sde", steps, path=task.spec.get("path") or "linear")
        self.model: Transformer | None = None

    def __call__(self, path: Path) -> None:
        """Writes the PNG ``path``; where the samples are not finite it says so and training goes on."""
        device, config = self.task.device, self.task.model.config
        if self.model is None:
            self.model = Transformer(config).eval().requires_grad_(False).to(device)
            self.vae = autoencoders.load(self.autoencoder, device)
        self.model.load_state_dict(self.task.ema)
        indices = list(range(PICTURES))
        y = torch.arange(PICTURES, device=device) % config.classes
        with torch.no_grad():
            z = draw(self.model, self.sampling, self.task.spec["seed"], y, indices, device) / self.scaling_factor
        try:
            images = decode(self.vae, z, indices, path.stem).cpu().numpy()
        except FloatingPointError as error:
            print(f"no picture: {error}", file=sys.stderr)
            return
        rows = [np.concatenate(images[k : k + COLUMNS], axis=2) for k in range(0, PICTURES, COLUMNS)]
        page = np.concatenate(rows, axis=1).transpose(1, 2, 0)
        files.write_atomically(path, lambda partial: Image.fromarray(page).save(partial, format="PNG"))


def checkpoint_blocks(model: Transformer) -> None:
    """From now on each block keeps its input alone and computes its activations again in the backward pass."""
    for block in model.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)


def utilisation(config: TransformerConfig, batch: int, precision: str, devices: int, step_seconds: float) -> float | None:
    """The transformer's FLOPs in a step over what the devices' peak allows; None where `reals measure` has not found the peak."""
    peak = rates.peak(rates.this_device(torch.get_num_threads()), precision)
    return peak and flops.TRAINED * flops.transformer_flops(config) * batch / (step_seconds * devices * peak)


def run(context: Context, artefact: Artefact, step: int) -> None:
    """Trains to ``step`` (a milestone; earlier ones are done) and writes its EMA weights, which say what they are.

    Raises MissingArtefact where an earlier milestone is there but no training state: it came from elsewhere.
    """
    from safetensors.torch import save_file

    spec, registry = artefact.spec, context.registry
    folder, states = context.begin(artefact), registry.states(artefact)
    milestones = registry.milestones(artefact)
    earlier = [m for m in milestones if m < step and weights_path(folder, m).exists()]
    if earlier and not States(states).steps():
        raise files.MissingArtefact(
            f"{weights_path(folder, earlier[-1])} is here, its training state is not in {states}: `dvc pull` the run's state too, "
            f"or delete the milestone to train again from the start"
        )
    images = context.images("train")
    latents = Latents(registry.folder(artefact.needed("latents")), images, spec.get("scaling_factor"))
    made_with = latents.manifest.get("autoencoder_sha256")
    autoencoder = registry.folder(artefact.needed("latents").needed("autoencoder"))
    if (autoencoder / files.MANIFEST).exists():  # where the cache was pulled alone it is not needed
        here = files.fingerprint(files.read_json(autoencoder / files.MANIFEST))
        files.refuse_other_copy(here, made_with, autoencoder, registry.folder(artefact.needed("latents")))
    teacher = online = None
    if "repa" in spec:
        grid = spec["latent_size"] // spec["patch"]
        if "features" in spec:
            teacher = CachedFeatures(registry.folder(artefact.needed("features")), images)
        else:
            teacher = OnlineFeatures(registry.folder(artefact.needed("teacher")), context.device, grid)
            online = images
    config = network_config(spec, len(images.classes), teacher.dim if teacher else None)
    model = Transformer(config)
    initialise(model, rng.generator(spec["seed"], "transformer weights"))
    engine = context.scale.engine
    if engine.checkpoint_blocks:
        checkpoint_blocks(model)
    with Processes(spec.get("precision") or "fp32", engine.accumulate, engine.compile, engine.deterministic) as processes:
        task = TransformerTask(spec, model.train(), latents, torch.from_numpy(images.labels), processes, teacher, online)
        pictures = Pictures(task, autoencoder, latents.scaling_factor, context.scale.sampling.steps)
        loop.train(
            task, folder, step, label=f"{artefact.name} {step}", processes=processes, engine=engine, keep=milestones,
            batch=spec["batch"], sample=pictures, states=states,
            utilisation=partial(utilisation, config, spec["batch"], spec.get("precision") or "fp32", processes.count),
        )  # fmt: skip
        if not processes.main:
            return
    facts = {
        "step": step,
        "family": spec["family"],
        "config": asdict(config),
        "scaling_factor": latents.scaling_factor,
        "run": artefact.id,
        "autoencoder": latents.manifest["autoencoder"],
        "autoencoder_sha256": made_with,
        "data_sha256": images.fingerprint(),
        "code": files.code_version(),
    }
    state = {k: v.detach().cpu().contiguous() for k, v in task.ema.items()}
    files.sweep(weights_path(folder, step))
    files.write_atomically(
        weights_path(folder, step),
        lambda partial: save_file(state, partial, metadata={"reals": json.dumps(facts)}),
    )
