"""Stage `autoencoder`: train the base from scratch or bring it in, and fine-tune it with Eqs. 1-5."""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reals import alignment, files, rng, training
from reals.alignment import AlignNetworks, AlignWeights
from reals.images import Images
from reals.metrics.reconstruction import psnr
from reals.models import autoencoder as models
from reals.models import discriminator as gan
from reals.registry import Artefact
from reals.stages import Context
from reals.stages.features import CachedFeatures, OnlineFeatures


def lpips_network(net: str, backbone: str, weights: str | None) -> nn.Module:
    """LPIPS through the `lpips` package; takes images in [-1, 1].

    ``backbone`` 'pretrained' uses torchvision's ImageNet weights (a download, or the state dict file ``weights``);
    'random' a fixed random backbone under the package's trained linear layers: a perceptual-shaped loss, not LPIPS
    as published, and named so wherever it is reported.
    """
    import lpips

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.key(0, "lpips backbone"))
        random = backbone == "random" or weights is not None
        network = lpips.LPIPS(net=net, pnet_rand=random, verbose=False)
    if weights is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        for name, part in network.net.named_children():
            own = {k: state[f"features.{k}"] for k in part.state_dict()}
            if own and name.startswith("slice"):
                part.load_state_dict(own)
    return network.eval().requires_grad_(False)


class AutoencoderTask(training.Task):
    """One step of Eq. 5: L = MSE + lambda_g GAN + lambda_p LPIPS + lambda_k KL + lambda_a L_align, then the discriminator's.

    All reductions: pixel losses and LPIPS are means; the KL is summed over latent dimensions and averaged over images,
    the only reading in which the paper's lambda_k matters. The align loss sees the sampled z.
    """

    def __init__(self, spec: dict, vae: nn.Module, align: AlignNetworks | None, teacher, lpips: nn.Module, images: Images,
                 held_out: Images, held_out_images: int, device: torch.device):  # fmt: skip
        self.spec, self.vae, self.align, self.teacher, self.lpips = spec, vae, align, teacher, lpips
        self.images, self.device = images, device
        self.held_out = torch.from_numpy(held_out.batch(np.arange(min(held_out_images, len(held_out))))).to(device)
        seed = spec["seed"]
        self.discriminator = gan.patch_gan(spec["gan"]["channels"], spec["gan"]["layers"]).to(device)
        gan.initialise(self.discriminator, rng.generator(seed, "discriminator weights"))
        trained = [*vae.parameters(), *(align.parameters() if align else [])]
        settings = {"lr": spec["lr"], "betas": tuple(spec["betas"]), "weight_decay": spec["weight_decay"]}
        self.optimizer = torch.optim.AdamW(trained, **settings)
        self.discriminator_optimizer = torch.optim.AdamW(self.discriminator.parameters(), **settings)
        self.trained = trained

    def update(self, step: int) -> dict[str, Tensor]:
        spec, seed = self.spec, self.spec["seed"]
        batch = spec["batch"]
        for optimizer in (self.optimizer, self.discriminator_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = spec["lr"] * 0.5 * (1 + math.cos(math.pi * step / spec["steps"]))  # Table 1: cosine to 0
        indices = training.data_order(seed, step, batch, len(self.images))
        flips = (torch.rand(batch, generator=rng.generator(seed, "flip", step)) < 0.5).numpy() & spec["flip"]
        pixels = torch.from_numpy(self.images.batch(indices, flips)).to(self.device)
        x = models.to_input(pixels)
        mean, logvar = models.moments(self.vae, x)
        noise = torch.randn(mean.shape, generator=rng.generator(seed, "posterior", step)).to(self.device)
        z = mean + torch.exp(0.5 * logvar) * noise
        reconstruction = self.vae.decode(z).sample

        lambda_g = spec["lambda_g"] * self._ramp(step)
        terms = {"mse": F.mse_loss(reconstruction, x), "kl": models.kl_per_image(mean, logvar).mean()}
        weights = {"mse": 1.0, "kl": spec["lambda_k"]}
        if spec["lambda_p"] > 0:
            terms["lpips"], weights["lpips"] = self.lpips(reconstruction, x).mean(), spec["lambda_p"]
        if lambda_g > 0:
            self.discriminator.requires_grad_(False)
            terms["gan"], weights["gan"] = gan.generator_loss(self.discriminator(reconstruction)), lambda_g
            self.discriminator.requires_grad_(True)
        parts: dict[str, Tensor] = {}
        if self.align is not None:
            a = spec["align"]
            patch, cls = self.teacher(indices, flips, pixels)
            aligned = alignment.align_loss(
                self.align, z, patch.to(self.device), cls.to(self.device),
                AlignWeights(a["lambda_1"], a["lambda_2"], a["smooth_l1_beta"]),
            )  # fmt: skip
            terms["align"], weights["align"], parts = aligned.total, a["lambda_a"], aligned.parts
        loss = sum(weights[name] * term for name, term in terms.items())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.trained, spec["grad_clip"])
        self.optimizer.step()

        if spec["lambda_g"] > 0:
            real, fake = self.discriminator(x), self.discriminator(reconstruction.detach())
            d_loss = gan.discriminator_loss(real, fake)
            self.discriminator_optimizer.zero_grad(set_to_none=True)
            d_loss.backward()
            nn.utils.clip_grad_norm_(self.discriminator.parameters(), spec["grad_clip"])
            self.discriminator_optimizer.step()
            parts["discriminator"] = d_loss.detach()
        raw = {name: term.detach() for name, term in terms.items()}
        weighted = {f"{name}_weighted": weights[name] * term for name, term in raw.items()}
        record = {"loss": loss.detach(), **raw, **weighted, **parts, "grad_norm": norm.detach()}
        if (step + 1) % 50 == 0 or step + 1 == spec["steps"]:
            record |= self.held_out_record()
        return record

    def _ramp(self, step: int) -> float:
        start, ramp = self.spec["gan"]["start"], self.spec["gan"]["ramp"]
        return min(1.0, max(0, step - start) / ramp) if ramp else float(step >= start)

    @torch.no_grad()
    def held_out_record(self) -> dict[str, Tensor]:
        """Reconstruction and latent statistics of the fixed held-out batch (posterior mean decoded)."""
        x = models.to_input(self.held_out)
        mean, logvar = models.moments(self.vae, x)
        reconstruction = self.vae.decode(mean).sample
        return {
            "held_out_psnr": psnr((x + 1) / 2, (reconstruction.clamp(-1, 1) + 1) / 2).mean(),
            "held_out_kl": models.kl_per_image(mean, logvar).mean(),
            "held_out_latent_std": (mean.var() + logvar.exp().mean()).sqrt(),
        }

    def state(self) -> dict:
        return {
            "vae": self.vae.state_dict(),
            "align": self.align.state_dict() if self.align else {},
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "discriminator_optimizer": self.discriminator_optimizer.state_dict(),
        }

    def load(self, state: dict) -> None:
        self.vae.load_state_dict(state["vae"])
        if self.align is not None:
            self.align.load_state_dict(state["align"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])


def run(context: Context, artefact: Artefact) -> None:
    """Makes the autoencoder's folder: a diffusers AutoencoderKL, the align networks if any, log.jsonl."""
    folder, spec = context.begin(artefact), artefact.spec
    if "pretrained" in spec:
        _bring_in(context, artefact, folder)
        return
    registry = context.registry
    if spec["init"] is None:
        vae = models.build(context.scale.data.resolution, spec["latent_channels"], spec["block_out_channels"],
                           spec["layers_per_block"], spec["norm_num_groups"])  # fmt: skip
        models.initialise(vae, spec["seed"])
    else:
        start = registry.folder(artefact.needed("autoencoder"))
        files.opened(start)
        vae = models.load(start)
    vae = vae.to(context.device, memory_format=torch.channels_last).train().requires_grad_(True)
    align = teacher = None
    if spec["align"] is not None:
        if "features" in spec:
            teacher = CachedFeatures(registry.folder(artefact.needed("features")))
        else:
            teacher = OnlineFeatures(registry.folder(artefact.needed("teacher")), context.device)
        a = spec["align"]
        align = AlignNetworks(spec["latent_channels"], teacher.dim, a["layers"], a["hidden"], a["patch"], a["cls"])
        alignment.initialise(align, rng.generator(spec["seed"], "align weights"))
        align = align.to(context.device)
    config = context.scale.autoencoder
    lpips = lpips_network(spec["lpips"]["net"], spec["lpips"]["backbone"], config.lpips.weights).to(context.device)
    task = AutoencoderTask(spec, vae, align, teacher, lpips, context.images("train"), context.images("held_out"),
                           config.held_out_images, context.device)  # fmt: skip
    training.train(task, folder, spec["steps"], label=artefact.name)
    # The scale that makes the latents of unit variance is measured by stage `latents`, on training images.
    names = models.save(vae, None, folder)
    if align is not None:
        names += models.save_align(align, folder)
    files.seal(folder, names, steps=spec["steps"])


def _bring_in(context: Context, artefact: Artefact, folder: Path) -> None:
    path = context.scale.bases[artefact.name].path
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise ValueError(f"bases.{artefact.name}.path: {path} has no config.json; give a diffusers AutoencoderKL folder")
    vae = models.load(path)
    expected, got = context.scale.latent.channels, vae.config.latent_channels
    if expected != got:
        raise ValueError(f"bases.{artefact.name}.path: {path} has {got} latent channels, latent.channels is {expected}")
    names = models.save(vae, None, folder)
    digest = files.sha256(folder / names[1])
    if artefact.spec["sha256"] not in (None, digest):
        raise ValueError(
            f"bases.{artefact.name}.path: {path}: sha256 of the weights is {digest}, expected {artefact.spec['sha256']}"
        )
    files.seal(folder, names, steps=0)
