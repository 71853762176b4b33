"""Stage `autoencoder`: train the base from scratch or bring it in, and fine-tune it with Eqs. 1-5."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from reals import files, rng
from reals.data.dataset import Images
from reals.data.readers import CachedFeatures
from reals.experiment.registry import Artefact
from reals.machine.usage import work
from reals.measure.metrics.reconstruction import psnr
from reals.method import alignment
from reals.method.alignment import AlignNetworks, AlignWeights
from reals.method.models import autoencoder as models
from reals.method.models import discriminator as gan
from reals.method.models.autoencoder import to_uint8
from reals.method.models.lpips import lpips_network
from reals.method.models.teacher import OnlineFeatures
from reals.progress import Progress
from reals.stages.context import Context
from reals.training import loop
from reals.training.data_order import Ahead, data_order
from reals.training.ema import update_ema
from reals.training.processes import Processes, Share, add_weighted
from reals.training.schedule import cosine, set_lr
from reals.training.task import Task

BATCH = 64  # of the latent scale's measurement
GRID_ROWS = 8  # of two pairs
LARGEST_WEIGHT = 1e4  # VQGAN's clamp of the adaptive weight


def adaptive_weight(loss: Tensor, other: Tensor, layer: Tensor, processes: Processes) -> Tensor:
    """|d loss / d layer| / |d other / d layer|, for ``other`` to pull as hard as ``loss`` there (VQGAN)."""
    gradients = [torch.autograd.grad(term, layer, retain_graph=True)[0] for term in (loss, other)]
    processes.average(gradients)
    a, b = (torch.linalg.vector_norm(g) for g in gradients)
    return (a / (b + 1e-4)).clamp(max=LARGEST_WEIGHT)


class Batch(NamedTuple):
    """What one process needs of one step's batch, on the CPU; rows are samples."""

    indices: list[int]
    flips: np.ndarray
    pixels: Tensor  # uint8
    noise: Tensor  # of the posterior sample
    patch: Tensor | None  # the teacher's features, from the cache
    cls: Tensor | None


class AutoencoderTask(Task):
    """One step of Eq. 5: L = pixel + lambda_p LPIPS + lambda_g GAN + lambda_k KL + lambda_a L_align, then the discriminator's.

    All reductions: pixel losses and LPIPS are means; the KL is summed over latent dimensions and averaged over images,
    the only reading in which the paper's lambda_k matters. The align loss sees the sampled z. Networks run in the
    processes' precision, losses in float32.

    With gradient accumulation the discriminator's batch statistics and adaptive weights are those of a share, as in
    the reference code; all else is that of the whole batch.
    """

    def __init__(self, spec: dict, vae: nn.Module, align: AlignNetworks | None, teacher, lpips: nn.Module, images: Images,
                 held_out: Images, processes: Processes, held_out_images: int = 64, held_out_every: int = 50):  # fmt: skip
        if processes.accumulate > max(1, spec["batch"] // processes.count):
            # Batch norm is over the shares of all processes, so that all must have the same number.
            raise ValueError(
                f"engine.accumulate {processes.accumulate}: a batch of {spec['batch']} on {processes.count} processes has no "
                f"{processes.accumulate} shares for each; lower it"
            )
        self.spec, self.processes, self.device = spec, processes, processes.device
        self.teacher, self.images = teacher, images
        self.cached = isinstance(teacher, CachedFeatures)
        self.vae = vae.to(self.device, memory_format=torch.channels_last).train().requires_grad_(True)
        self.align = align and align.to(self.device).train().requires_grad_(True)
        self.lpips = lpips.to(self.device)
        shown = np.arange(min(held_out_images, len(held_out)))
        self.held_out, self.held_out_every = torch.from_numpy(held_out.batch(shown)).to(self.device), held_out_every
        self.discriminator = gan.patch_gan(spec["gan"]["channels"], spec["gan"]["layers"])
        gan.initialise(self.discriminator, rng.generator(spec["seed"], "discriminator weights"))
        self.discriminator.to(self.device, memory_format=torch.channels_last)
        if processes.compiled:
            for module in (self.vae.encoder, self.vae.decoder, self.discriminator):
                module.compile()
        self.trained = [*self.vae.parameters(), *(self.align.parameters() if self.align else [])]
        settings = {"lr": spec["lr"], "betas": tuple(spec["betas"]), "weight_decay": spec["weight_decay"],
                    "fused": self.device.type in ("cpu", "cuda")}  # fmt: skip
        self.optimizer = torch.optim.AdamW(self.trained, **settings)
        self.discriminator_optimizer = torch.optim.AdamW(self.discriminator.parameters(), **settings)
        self.ema = [p.detach().clone() for p in self.trained] if spec["ema"] else []
        self.batches = Ahead(self.batch)
        self.done = 0

    def batch(self, step: int) -> Batch:
        """This process's rows of the step's batch. All is drawn for the global batch, so that the split does not matter."""
        spec, seed, n = self.spec, self.spec["seed"], self.spec["batch"]
        rows = self.processes.rows(n)
        indices = data_order(seed, step, n, len(self.images))[rows]
        flips = (torch.rand(n, generator=rng.generator(seed, "flip", step)) < 0.5).numpy()[rows] & spec["flip"]
        pixels = torch.from_numpy(self.images.batch(indices, flips))
        side = pixels.shape[-1] // 2 ** (len(spec["block_out_channels"]) - 1)
        shape = (n, spec["latent_channels"], side, side)
        noise = torch.randn(shape, generator=rng.generator(seed, "posterior", step))[rows]
        patch, cls = self.teacher(indices, flips, None) if self.cached else (None, None)
        made = Batch(indices, flips, pixels, noise, patch, cls)
        if self.device.type == "cuda":
            made = Batch(*(v.pin_memory() if isinstance(v, Tensor) else v for v in made))
        return made

    def update(self, step: int) -> dict[str, Tensor | float]:
        spec, processes = self.spec, self.processes
        batch, lambda_g = self.batches(step), spec["lambda_g"] * self._ramp(step)
        lr = cosine(spec["lr"], step, spec["steps"])
        for optimizer in (self.optimizer, self.discriminator_optimizer):
            set_lr(optimizer, lr)
        record: dict[str, Tensor] = {}
        pairs: list[tuple[Share, Tensor, Tensor]] = []
        first = processes.rows(spec["batch"]).start
        self.discriminator.requires_grad_(False)
        for share in processes.shares(spec["batch"]):
            rows = slice(share.rows.start - first, share.rows.stop - first)
            part = Batch(*(v if v is None else v[rows] for v in batch))
            x = models.to_input(part.pixels.to(self.device, non_blocking=True)).contiguous(memory_format=torch.channels_last)
            terms, reconstruction = self.gradient(part, x, lambda_g, share)
            add_weighted(record, terms, share.weight)
            pairs.append((share, x, reconstruction))
        processes.average([p.grad for p in self.trained])
        record["grad_norm"] = processes.step(self.optimizer, spec["grad_clip"])

        if spec["lambda_g"] > 0 and step >= spec["gan"]["start"]:
            self.discriminator.requires_grad_(True)
            for share, x, reconstruction in pairs:
                with processes.autocast():
                    real, fake = self.discriminator(x), self.discriminator(reconstruction)
                loss = gan.discriminator_loss(real.float(), fake.float())
                processes.backward(loss, share)
                add_weighted(record, {"discriminator": loss.detach()}, share.weight)
            processes.average([p.grad for p in self.discriminator.parameters()])
            record["discriminator_grad_norm"] = processes.step(self.discriminator_optimizer, spec["grad_clip"])
        if self.ema:
            update_ema(self.ema, self.trained, spec["ema"])
        self.done = step + 1
        return {**record, "lr": lr}

    def gradient(self, batch: Batch, x: Tensor, lambda_g: float, share: Share) -> tuple[dict[str, Tensor], Tensor]:
        """Adds the gradient of Eq. 5 for one share; (its terms, raw and weighted; the reconstruction)."""
        spec, processes, a = self.spec, self.processes, self.spec["align"]
        with processes.autocast():
            mean, logvar = models.moments(self.vae, x)
        mean, logvar = mean.float(), logvar.float()
        z = mean + torch.exp(0.5 * logvar) * batch.noise.to(self.device, non_blocking=True)
        # Cut here: what the decoder and the align networks pull at the latents is known by itself, for nothing.
        latents = z.detach().requires_grad_()
        with processes.autocast():
            reconstruction = self.vae.decode(latents).sample
        reconstruction = reconstruction.float()

        pixel = spec["pixel"]
        terms = {pixel: F.l1_loss(reconstruction, x) if pixel == "l1" else F.mse_loss(reconstruction, x)}
        weights: dict[str, float | Tensor] = {pixel: 1.0}
        if spec["lambda_p"] > 0:
            terms["lpips"], weights["lpips"] = self.lpips(reconstruction, x).mean(), spec["lambda_p"]
        loss = sum(weights[name] * term for name, term in terms.items())
        if lambda_g > 0:
            with processes.autocast():
                logits = self.discriminator(reconstruction)
            terms["gan"], weights["gan"] = gan.generator_loss(logits.float()), lambda_g
            if spec["gan_weight"] == "adaptive":
                layer = self.vae.decoder.conv_out.weight
                weights["gan"] = lambda_g * adaptive_weight(share.weight * loss, share.weight * terms["gan"], layer, processes)
            loss = loss + weights["gan"] * terms["gan"]
        parts: dict[str, Tensor] = {}
        if self.align is not None:
            patch, cls = self.features(batch)
            aligned = alignment.align_loss(
                self.align, latents, patch, cls, AlignWeights(a["lambda_1"], a["lambda_2"], a["smooth_l1_beta"])
            )
            terms["align"], weights["align"], parts = aligned.total, a["lambda_a"], aligned.parts
            if a["balance"] == "gradient":
                processes.backward(loss, share)
                weights["align"] = a["lambda_a"] * self._balance(latents, aligned.total, share)
                loss = weights["align"] * aligned.total
            else:
                loss = loss + weights["align"] * aligned.total
        processes.backward(loss, share)
        terms["kl"], weights["kl"] = models.kl_per_image(mean, logvar).mean(), spec["lambda_k"]
        kl_gradient = torch.full_like(terms["kl"], share.weight * spec["lambda_k"])
        torch.autograd.backward([z, terms["kl"]], [latents.grad, kl_gradient])

        raw = {name: term.detach() for name, term in terms.items()}
        weighted = {f"{name}_weighted": weights[name] * term for name, term in raw.items()}
        return {"loss": sum(weighted.values()), **raw, **weighted, **parts}, reconstruction.detach()

    def features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The teacher's, of the very images the encoder sees."""
        if self.cached:
            return tuple(v.to(self.device, non_blocking=True) for v in (batch.patch, batch.cls))
        with self.processes.autocast():
            return self.teacher(batch.indices, batch.flips, batch.pixels.to(self.device, non_blocking=True))

    def _balance(self, latents: Tensor, aligned: Tensor, share: Share) -> Tensor:
        """What makes the alignment pull at the latents as hard as the reconstruction does, whose gradient they hold."""
        (gradient,) = torch.autograd.grad(aligned * share.weight, latents, retain_graph=True)
        squares = torch.stack([latents.grad.square().sum(), gradient.square().sum()])
        self.processes.average([squares])
        reconstruction, alignment_ = squares.sqrt()
        return (reconstruction / alignment_.clamp(min=torch.finfo(torch.float32).tiny)).clamp(max=LARGEST_WEIGHT)

    def _ramp(self, step: int) -> float:
        start, ramp = self.spec["gan"]["start"], self.spec["gan"]["ramp"]
        return min(1.0, max(0, step - start) / ramp) if ramp else float(step >= start)

    def extras(self) -> dict[str, Tensor]:
        """Every so many steps, and after the last: reconstruction and latents of the fixed held-out batch."""
        due = self.done % self.held_out_every == 0 or self.done == self.spec["steps"]
        return self.held_out_record() if due else {}

    @torch.no_grad()
    def held_out_record(self) -> dict[str, Tensor]:
        """PSNR of the decoded posterior means, KL per image, and statistics of the sampled latents, also per channel."""
        statistics, kl, quality, spread = models.LatentStatistics(), [], [], []
        for pixels in self.held_out.split(BATCH):
            x = models.to_input(pixels)
            mean, logvar = models.moments(self.vae, x)
            statistics.add(mean, logvar)
            kl.append(models.kl_per_image(mean, logvar))
            spread.append(torch.exp(0.5 * logvar).mean(dim=(1, 2, 3)))
            quality.append(psnr((x + 1) / 2, (self.vae.decode(mean).sample.clamp(-1, 1) + 1) / 2))
        channels = {
            f"held_out_latent_{name}_{c}": value
            for name, values in (("mean", statistics.channel_mean), ("std", statistics.channel_std))
            for c, value in enumerate(values.to(self.device))
        }
        return {
            "held_out_psnr": torch.cat(quality).mean(),
            "held_out_kl": torch.cat(kl).mean(),
            "held_out_posterior_std": torch.cat(spread).mean(),
            "held_out_latent_mean": statistics.channel_mean.mean().to(self.device),
            "held_out_latent_std": torch.tensor(statistics.std, device=self.device),
            **channels,
        }

    @torch.no_grad()
    def grid(self, path: Path) -> None:
        """A picture of held-out images, each with its reconstruction on its right."""
        shown = self.held_out[: 2 * GRID_ROWS]
        x = models.to_input(shown)
        made = to_uint8(self.vae.decode(models.moments(self.vae, x)[0]).sample)
        pairs = torch.cat([shown, made.to(shown)], dim=3)  # [B, 3, H, 2W]
        pairs = F.pad(pairs, (0, 0, 0, 0, 0, 0, 0, -len(pairs) % 2))
        picture = pairs.unflatten(0, (-1, 2)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
        image = Image.fromarray(picture.cpu().numpy())
        files.write_atomically(path, lambda partial: image.save(partial, format="png"))

    def state(self) -> dict:
        return {
            "vae": self.vae.state_dict(),
            "align": self.align.state_dict() if self.align else {},
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "discriminator_optimizer": self.discriminator_optimizer.state_dict(),
            "ema": self.ema,
        }

    @torch.no_grad()
    def load(self, state: dict) -> None:
        self.vae.load_state_dict(state["vae"])
        if self.align is not None:
            self.align.load_state_dict(state["align"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])
        for mine, value in zip(self.ema, state["ema"], strict=True):
            mine.copy_(value)

    @torch.no_grad()
    def finish(self) -> None:
        """Leaves the networks as they are to be used: frozen, the average where one is kept."""
        for parameter, average in zip(self.trained, self.ema, strict=False):
            parameter.copy_(average)
        for network in (self.vae, self.align):
            if network is not None:
                network.eval().requires_grad_(False)


def run(context: Context, artefact: Artefact) -> None:
    """Makes the autoencoder's folder: a diffusers AutoencoderKL, the align networks if any, log.jsonl.

    Its config.json holds scaling_factor, 1/std of sampled latents, measured on training images after training; its
    index.json their mean and std, also per channel.
    """
    folder, spec = context.begin(artefact), artefact.spec
    if "pretrained" in spec:
        _bring_in(context, artefact, folder)
        return
    registry, config, engine = context.registry, context.scale.autoencoder, context.scale.engine
    if spec["init"] is None:
        vae = models.build(context.scale.data.resolution, spec["latent_channels"], spec["block_out_channels"],
                           spec["layers_per_block"], spec["norm_num_groups"])  # fmt: skip
        models.initialise(vae, spec["seed"])
    else:
        start = registry.folder(artefact.needed("autoencoder"))
        files.verified(start)
        vae = models.load(start)
        if spec["unit_scale"]:
            models.rescale_latents(vae, vae.config.scaling_factor)
    align = teacher = None
    if spec["align"] is not None:
        if "features" in spec:
            teacher = CachedFeatures(registry.folder(artefact.needed("features")), context.images("train"))
        else:
            teacher = OnlineFeatures(registry.folder(artefact.needed("teacher")), context.device)
        a = spec["align"]
        align = AlignNetworks(spec["latent_channels"], teacher.dim, a["layers"], a["hidden"], a["patch"], a["cls"])
        alignment.initialise(align, rng.generator(spec["seed"], "align weights"))
    lpips = lpips_network(spec["lpips"]["net"], spec["lpips"]["backbone"], config.lpips.weights)
    with Processes(spec["precision"] or "fp32", engine.accumulate, engine.compile, engine.deterministic) as processes:
        if teacher is not None:  # not before: cuBLAS reads what makes it deterministic once, at its first product
            _check_grid(teacher, context.images("train"), context.scale.latent_size, spec["align"]["patch"], context.device)
        task = AutoencoderTask(spec, vae, align, teacher, lpips, context.images("train"), context.images("held_out"),
                               processes, config.held_out_images, config.held_out_every)  # fmt: skip
        loop.train(
            task, folder, spec["steps"], label=artefact.name, processes=processes, engine=engine, batch=spec["batch"],
            sample=task.grid,
        )  # fmt: skip
        if not processes.main:
            return
    task.finish()
    _seal(folder, vae, align, measured(vae, context.images("train"), spec), steps=spec["steps"])


def _check_grid(teacher, images: Images, side: int, patch: bool, device: torch.device) -> None:
    """ValueError before any training where the teacher's tokens are not one to one with the latents'."""
    one, plain = np.zeros(1, int), np.zeros(1, bool)
    tokens = teacher(one, plain, torch.from_numpy(images.batch(one)).to(device))[0].shape[1]
    if patch and tokens != side**2:
        raise ValueError(
            f"alignment: the teacher gives {tokens} patch features an image, the latents have {side}x{side} = {side**2} positions; "
            f"run the teacher at {side} times its patch size (or align cls alone)"
        )


@torch.no_grad()
def measured(vae: nn.Module, images: Images, spec: dict) -> models.LatentStatistics:
    """Statistics of the sampled latents of ``spec['scale_images']`` training images (or all), mirrored too where data are."""
    statistics, n = models.LatentStatistics(), len(images)
    chosen = np.sort(rng.permutation(spec["seed"], "latent scale", n=n)[: spec["scale_images"]])
    progress = Progress("latent scale", len(chosen) * (1 + spec["flip"]))
    with work():
        for flip in (False, True)[: 1 + spec["flip"]]:
            for start in range(0, len(chosen), BATCH):
                indices = chosen[start : start + BATCH]
                pixels = torch.from_numpy(images.batch(indices, np.full(len(indices), flip)))
                statistics.add(*models.moments(vae, models.to_input(pixels.to(vae.device))))
                progress.update(flip * len(chosen) + start + len(indices))
    if not math.isfinite(statistics.std) or statistics.std == 0:
        raise ValueError(
            f"the latents have standard deviation {statistics.std}; the autoencoder is of no use, look at its log.jsonl"
        )
    return statistics


def _seal(
    folder: Path, vae: nn.Module, align: AlignNetworks | None, statistics: models.LatentStatistics | None, steps: int
) -> None:
    facts = {}
    if statistics is not None:
        facts = {
            "latent_std": statistics.std,
            "latent_channel_mean": statistics.channel_mean.tolist(),
            "latent_channel_std": statistics.channel_std.tolist(),
        }
    names = models.save(vae, 1 / statistics.std if statistics else None, folder)
    if align is not None:
        names += models.save_align(align, folder)
    files.seal(folder, names, steps=steps, scaling_factor=vae.config.scaling_factor, **facts)


def _bring_in(context: Context, artefact: Artefact, folder: Path) -> None:
    """An autoencoder made elsewhere, checked before it is used; align networks that lie beside it come along."""
    spec, path, where = artefact.spec, context.scale.bases[artefact.name].path, f"bases.{artefact.name}"
    try:
        if spec["sha256"] is not None:
            weights = models.find(path)[1]
            digest = files.sha256(weights)
            if digest != spec["sha256"]:
                raise ValueError(f"{weights}: its sha256 is {digest}, expected {spec['sha256']}")
        vae, align = models.load(path, context.device), models.load_align(Path(path), context.device)
    except ValueError as error:
        raise ValueError(f"{where}.path: {error}") from None
    for what, expected, got in (
        ("latent channels", context.scale.latent.channels, vae.config.latent_channels),
        ("times downsampling", context.scale.latent.factor, 2 ** (len(vae.config.block_out_channels) - 1)),
    ):
        if expected != got:
            raise ValueError(f"{where}.path: {path}: has {got} {what}, this scale's latents {expected}")
    if vae.config.get("shift_factor"):
        raise ValueError(f"{where}.path: {path}: has shift_factor {vae.config.shift_factor}; latents here are scaled only")
    vae = vae.to(memory_format=torch.channels_last)
    statistics = measured(vae, context.images("train"), spec) if "scale_images" in spec else None
    _seal(folder, vae, align, statistics, steps=0)
