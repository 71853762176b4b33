"""Stage `transformer`: DiT, SiT or REPA on cached latents, one milestone after the other."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from reals import checkpoints, ddpm, files, objectives, rng, training
from reals.images import Images
from reals.models.transformer import Transformer, TransformerConfig, initialise
from reals.registry import Artefact
from reals.stages import Context
from reals.stages.features import CachedFeatures, OnlineFeatures, pooled
from reals.stages.latents import Latents


def network_config(spec: dict, classes: int, teacher_dim: int | None) -> TransformerConfig:
    repa = spec.get("repa")
    return TransformerConfig(
        width=spec["width"], depth=spec["depth"], heads=spec["heads"], patch=spec["patch"],
        latent_channels=spec["latent_channels"], latent_size=spec["latent_size"], classes=classes,
        learn_sigma=spec["learn_sigma"], label_dropout=spec["label_dropout"],
        projector_depth=repa and repa["depth"], projector_dim=repa and teacher_dim,
        **({"projector_hidden": repa["hidden"]} if repa else {}),
    )  # fmt: skip


class TransformerTask:
    """One AdamW step of the family's loss on one batch, then the EMA. What is random is keyed by the step's number."""

    def __init__(self, spec: dict, model: Transformer, latents: Latents, labels: Tensor, device: torch.device,
                 teacher=None, images: Images | None = None):  # fmt: skip
        self.spec, self.model, self.latents, self.labels, self.device = spec, model, latents, labels, device
        self.teacher, self.images = teacher, images
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.ema = {name: value.detach().clone() for name, value in model.state_dict().items()}
        fused = device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(self.trained, lr=spec["lr"], betas=(0.9, 0.999), weight_decay=0.0, fused=fused)
        self.schedule = ddpm.linear_schedule() if spec["family"] == "DiT" else None

    def update(self, step: int) -> dict[str, Tensor]:
        spec, seed, n = self.spec, self.spec["seed"], self.spec["batch"]

        def draw(purpose: str) -> torch.Generator:
            return rng.generator(seed, purpose, step)

        indices = training.data_order(seed, step, n, len(self.latents))
        flips = (torch.rand(n, generator=draw("flip")) < 0.5).numpy() & spec["flip"]
        shape = (n, spec["latent_channels"], spec["latent_size"], spec["latent_size"])
        x = self.latents.batch(indices, flips, torch.randn(shape, generator=draw("posterior"))).to(self.device)
        noise = torch.randn(shape, generator=draw("noise")).to(self.device)
        dropped = objectives.drop_labels(
            self.labels[indices], torch.rand(n, generator=draw("label dropout")), spec["label_dropout"], self.model.config.classes
        )
        y = dropped.to(self.device)
        if self.schedule is not None:
            t = torch.randint(0, len(self.schedule), (n,), generator=draw("time")).to(self.device)
            losses = objectives.ddpm_loss(self.model, self.schedule, x, y, t, noise)
        else:
            t = torch.rand(n, generator=draw("time")).to(self.device)
            if self.teacher is None:
                losses = objectives.flow_loss(self.model, x, y, t, noise)
            else:
                pixels = torch.from_numpy(self.images.batch(indices, flips)).to(self.device) if self.images else None
                patches, _ = self.teacher(indices, flips, pixels)
                tokens = pooled(patches, spec["latent_size"] // spec["patch"]).to(self.device)
                losses = objectives.repa_loss(self.model, x, y, t, noise, tokens, spec["repa"]["coefficient"])
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        record = {"loss": losses.total.detach(), **losses.parts}
        if "repa" in spec:
            record["grad_norm"] = nn.utils.clip_grad_norm_(self.trained, spec["repa"]["grad_clip"]).detach()
        self.optimizer.step()
        training.update_ema(list(self.ema.values()), self.model.state_dict().values(), spec["ema"])
        return record

    def state(self) -> dict:
        return {"model": self.model.state_dict(), "ema": self.ema, "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, value in state["ema"].items():
            self.ema[name].copy_(value)


def weights_path(folder: Path, step: int) -> Path:
    return folder / f"step_{step}.safetensors"


def run(context: Context, artefact: Artefact, step: int) -> None:
    """Trains to ``step`` (a milestone; earlier ones are done) and writes its EMA weights, which say what they are."""
    from safetensors.torch import save_file

    spec, registry = artefact.spec, context.registry
    folder = context.begin(artefact)
    latents_artefact = artefact.needed("latents")
    latents = Latents(registry.folder(latents_artefact))
    images = context.images("train")
    if len(images) != len(latents):
        raise ValueError(
            f"{registry.folder(latents_artefact)} holds {len(latents)} images, the data set {len(images)}; remake it"
        )
    teacher = online = None
    if "repa" in spec:
        grid = spec["latent_size"] // spec["patch"]
        if "features" in spec:
            teacher = CachedFeatures(registry.folder(artefact.needed("features")))
        else:
            teacher = OnlineFeatures(registry.folder(artefact.needed("teacher")), context.device, grid)
            online = images
    config = network_config(spec, len(images.classes), teacher.dim if teacher else None)
    model = Transformer(config)
    initialise(model, rng.generator(spec["seed"], "transformer weights"))
    model = model.to(context.device).train()
    task = TransformerTask(spec, model, latents, torch.from_numpy(images.labels), context.device, teacher, online)
    milestones = [context.scale.milestones[m] for m in registry.experiment.runs[artefact.name].milestones]
    training.train(task, folder, step, label=f"{artefact.name} {step}", keep=milestones)
    facts = {
        "step": step,
        "family": spec["family"],
        "config": asdict(config),
        "scaling_factor": latents.scaling_factor,
        "run": artefact.id,
        "autoencoder": latents.manifest["autoencoder"],
        "data_sha256": images.fingerprint(),
        "code": files.code_version(),
    }
    state = {k: v.detach().cpu().contiguous() for k, v in task.ema.items()}
    files.write_atomically(
        weights_path(folder, step),
        lambda partial: save_file(state, partial, metadata={"reals": json.dumps(facts)}),
    )


def load(path: Path, device: torch.device) -> tuple[Transformer, dict]:
    """(the EMA network in eval mode, the facts written with it). MissingArtefact where the file is missing or torn."""
    try:
        checkpoint = checkpoints.load(path, device=device)
    except ValueError as error:
        raise files.MissingArtefact(f"{error}; delete it and run `snakemake {path}`") from None
    return checkpoint.model, checkpoint.facts
