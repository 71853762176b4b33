"""The autoencoder's step: one of Eq. 5, then one of the discriminator."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from reals import rng
from reals.data.dataset import Images
from reals.experiment.scale import LPIPS_SMALLEST
from reals.experiment.specs import AlignSpec, TrainedAutoencoderSpec, VfSpec
from reals.method import equivariance, vf
from reals.method.alignment import AlignNetworks, AlignWeights
from reals.method.autoencoder_objective import (
    LARGEST_FACTOR,
    AutoencoderLoss,
    Balance,
    LossWeights,
    adaptive_weight,
    autoencoder_loss,
    gradient_balance,
)
from reals.method.equivariance import Transformation
from reals.method.models import autoencoder as models
from reals.method.models import discriminator as gan
from reals.method.objectives import wide
from reals.method.precision import autocast
from reals.training.batches import Ahead, mirrored, rows_of
from reals.training.ema import update_ema
from reals.training.processes import Processes, Share, add_weighted
from reals.training.schedule import cosine, set_lr
from reals.training.task import Task
from reals.training.tasks.autoencoder_batches import Batch, Batches, TeacherFeatures
from reals.training.tasks.held_out import HeldOut

if TYPE_CHECKING:  # diffusers is imported where it is used: it takes seconds
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL


class AutoencoderTask(Task):
    """Trains autoencoder and align networks by Eq. 5, and beside them the discriminator by its hinge loss.

    ``align`` and ``teacher`` (the features of the very images that the encoder sees) may be None. Networks run in the
    processes' precision, losses in float32. With gradient accumulation the discriminator's batch statistics and adaptive weights
    are those of a share, as in the reference code; all else is that of the whole batch.
    """

    batches: Ahead[Batch]

    def __init__(self, spec: TrainedAutoencoderSpec, vae: "AutoencoderKL", align: AlignNetworks | None, teacher: TeacherFeatures | None, lpips: nn.Module,
                 images: Images, held_out: Images, processes: Processes, held_out_images: int = 64, held_out_every: int = 50):  # fmt: skip
        if processes.accumulate > max(1, spec.batch // processes.count):
            # Batch norm is over the shares of all processes, so that all must have the same number.
            raise ValueError(
                f"engine.accumulate {processes.accumulate}: a batch of {spec.batch} on {processes.count} processes has no "
                f"{processes.accumulate} shares for each; lower it"
            )
        self.spec, self.processes, self.device = spec, processes, processes.device
        self.teacher, self.images = teacher, images
        self.vae = models.channels_last(vae, self.device).train().requires_grad_(True)
        self.align = align and align.to(self.device).train().requires_grad_(True)
        self.lpips = lpips.to(self.device)
        self.held_out, self.held_out_every = HeldOut(self.vae, held_out, held_out_images, self.device), held_out_every
        self.discriminator = gan.patch_gan(spec.gan.channels, spec.gan.layers)
        gan.initialise(self.discriminator, rng.generator(spec.seed, "discriminator weights"))
        self.discriminator.to(self.device).to(memory_format=torch.channels_last)
        if processes.compiled:
            if spec.gan_weight == "adaptive" or isinstance(spec.align, VfSpec):
                # Else what is compiled gives its buffers away in the first of the backward passes that these weights take.
                torch._functorch.config.donated_buffer = False
            for module in (self.vae.encoder, self.vae.decoder, self.discriminator):
                module.compile()
        self.trained = [*self.vae.parameters(), *(self.align.parameters() if self.align else [])]
        fused = self.device.type in ("cpu", "cuda")
        adamw = partial(torch.optim.AdamW, lr=spec.lr, betas=spec.betas, weight_decay=spec.weight_decay, fused=fused)
        self.optimizer = adamw(self.trained)
        self.discriminator_optimizer = adamw(self.discriminator.parameters())
        self.ema = [p.detach().clone() for p in self.trained] if spec.ema else []
        self.weights = loss_weights(spec)
        self.batch = Batches(spec, images, teacher, processes)
        self.batches: Ahead[Batch] = Ahead(self.batch)
        self.done = 0

    def update(self, step: int) -> dict[str, Tensor | float]:
        spec, processes = self.spec, self.processes
        batch = self.batches(step)
        lr = cosine(spec.lr, step, spec.steps)
        set_lr(self.optimizer, lr)
        set_lr(self.discriminator_optimizer, lr)
        record: dict[str, Tensor] = {}
        pairs: list[tuple[Share, Tensor, Tensor]] = []
        first = processes.rows(spec.batch).start
        transformation = self.transformation(step, batch.noise.shape[-1])
        self.discriminator.requires_grad_(False)
        for share in processes.shares(spec.batch):
            part = rows_of(batch, slice(share.rows.start - first, share.rows.stop - first))
            part = part._replace(pixels=mirrored(part.pixels, part.flips, self.device))
            x = models.to_input(part.pixels).contiguous(memory_format=torch.channels_last)
            terms, pair = self.gradient(part, x, spec.lambda_g * self._ramp(step), share, transformation)
            add_weighted(record, terms, share.weight)
            pairs.append((share, *pair))
        processes.average([p.grad for p in self.trained if p.grad is not None])
        record["grad_norm"] = processes.step(self.optimizer, spec.grad_clip)
        if spec.lambda_g > 0 and step >= spec.gan.start:
            record |= self._update_discriminator(pairs)
        if spec.ema:
            update_ema(self.ema, self.trained, spec.ema)
        self.done = step + 1
        return {**record, "lr": lr}

    def transformation(self, step: int, side: int) -> Transformation | None:
        """What EQ-VAE's regulariser does to the whole batch of a step, of latents of ``side`` cells; None: nothing, or there is none."""
        if self.spec.equivariance is None:
            return None
        return equivariance.draw(rng.generator(self.spec.seed, "equivariance", step), side, self.spec.equivariance)

    def gradient(
        self, batch: Batch, x: Tensor, lambda_g: float, share: Share, transformation: Transformation | None = None
    ) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        """Adds the gradient of Eq. 5 for one share, its pixels mirrored already.

        (Its terms, raw and weighted; the images as they were compared, and their reconstruction.)
        """
        processes = self.processes
        between = transformation if transformation is not None and transformation.of_latents else None
        if transformation is not None and between is None:
            x = transformation(x)
        with processes.autocast():
            mean, logvar = models.moments(self.vae, x)
        mean, logvar = wide(mean), wide(logvar)
        side = mean.shape[-1]
        z = mean + torch.exp(0.5 * logvar) * batch.noise.to(self.device, non_blocking=True)[..., :side, :side]
        teacher = self._features(batch, side) if self.align is not None else None
        balanced = isinstance(self.spec.align, AlignSpec) and self.spec.align.balance == "gradient"
        cut = CutLatents(z, share, processes) if balanced else None
        latents = z if cut is None else cut.latents
        with processes.autocast():
            reconstruction = self.vae.decode(latents if between is None else between(latents)).sample
        reconstruction = wide(reconstruction)
        compared = x if between is None else between(x)

        def adaptive(layer: Tensor, largest: float) -> Balance:
            def factor(loss: Tensor, other: Tensor) -> Tensor:
                return adaptive_weight(share.weight * loss, share.weight * other, layer, processes.average, largest)

            return factor

        of_gan = adaptive(self.vae.decoder.conv_out.weight, LARGEST_FACTOR) if self.spec.gan_weight == "adaptive" else None
        of_vf = adaptive(self.vae.encoder.conv_out.weight, vf.LARGEST_FACTOR) if isinstance(self.spec.align, VfSpec) else None
        loss = autoencoder_loss(
            compared, reconstruction, mean, logvar, latents, replace(self.weights, lambda_g=lambda_g),
            perceptual=self._distance, discriminator=self._logits, align=self.align, teacher=teacher,
            gan_balance=of_gan, align_balance=cut or of_vf,
        )  # fmt: skip
        if cut is None:
            processes.backward(loss.total, share)
        else:
            cut.backward(loss)
        return loss.record(), (compared, reconstruction.detach())

    def _distance(self, images: Tensor, others: Tensor) -> Tensor:
        images, others = (self._enlarged(x, LPIPS_SMALLEST[self.spec.lpips.net]) for x in (images, others))
        with autocast(self.device, self.spec.lpips.precision or "fp32"):
            return self.lpips(images, others)

    def _logits(self, images: Tensor) -> Tensor:
        with self.processes.autocast():
            logits = self.discriminator(self._judged(images))
        return wide(logits)

    def _judged(self, images: Tensor) -> Tensor:
        return self._enlarged(images, self.spec.gan.smallest)

    def _enlarged(self, images: Tensor, smallest: int) -> Tensor:
        """Images that were scaled down to below what a network takes, as large as it needs: of small data sets alone."""
        return images if images.shape[-1] >= smallest else equivariance.resized(images, smallest)

    def _features(self, batch: Batch, side: int) -> tuple[Tensor, Tensor]:
        """The teacher's, of the very images the encoder sees; of such as were scaled down, their large ones' on ``side`` cells."""
        if batch.patch is not None and batch.cls is not None:
            patch, cls = batch.patch.to(self.device, non_blocking=True), batch.cls.to(self.device, non_blocking=True)
        else:
            assert self.teacher is not None, "align networks without a teacher"
            with self.processes.autocast():
                patch, cls = self.teacher(batch.indices, batch.flips, batch.pixels)
        if side != batch.noise.shape[-1]:
            assert self.align is not None, "a teacher without align networks"
            patch = equivariance.tokens_at(patch, side // self.align.cells)
        return patch, cls

    def _update_discriminator(self, pairs: list[tuple[Share, Tensor, Tensor]]) -> dict[str, Tensor]:
        """One step on the images and reconstructions of all shares; its loss and the norm of its gradient."""
        record: dict[str, Tensor] = {}
        self.discriminator.requires_grad_(True)
        for share, x, reconstruction in pairs:
            with self.processes.autocast():
                real, fake = self.discriminator(self._judged(x)), self.discriminator(self._judged(reconstruction))
            loss = gan.discriminator_loss(real.float(), fake.float())
            self.processes.backward(loss, share)
            add_weighted(record, {"discriminator": loss.detach()}, share.weight)
        self.processes.average([p.grad for p in self.discriminator.parameters() if p.grad is not None])
        record["discriminator_grad_norm"] = self.processes.step(self.discriminator_optimizer, self.spec.grad_clip)
        return record

    def _ramp(self, step: int) -> float:
        """The share of lambda_g at a step: 0 before the discriminator starts, then linear to 1."""
        start, ramp = self.spec.gan.start, self.spec.gan.ramp
        return min(1.0, max(0, step - start) / ramp) if ramp else float(step >= start)

    def extras(self) -> dict[str, Tensor]:
        """Every so many steps, and after the last: reconstruction and latents of the fixed held-out batch."""
        due = self.done % self.held_out_every == 0 or self.done == self.spec.steps
        return self.held_out.record() if due else {}

    def grid(self, path: Path) -> None:
        self.held_out.grid(path)

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


def align_networks(spec: TrainedAutoencoderSpec, align: AlignSpec | VfSpec, dim: int) -> AlignNetworks:
    """The MLPs of Eq. 1 or VA-VAE's linear map, as a spec asks, for teachers' features of width ``dim``; call `alignment.initialise`
    after it."""
    bias = not isinstance(align, VfSpec)
    return AlignNetworks(spec.latent_channels, dim, align.layers, align.hidden, align.patch, align.cls, bias, align.cells or 1)


def loss_weights(spec: TrainedAutoencoderSpec) -> LossWeights:
    """The lambdas that an autoencoder's spec states; without alignment those of Eqs. 2 and 4 are never used."""
    weights = LossWeights(spec.pixel, spec.lambda_p, spec.lambda_g, spec.lambda_k)
    a = spec.align
    if a is None:
        return weights
    if isinstance(a, VfSpec):
        return replace(weights, lambda_a=a.lambda_a, align=vf.Margins(a.cosine_margin, a.distance_margin))
    return replace(weights, lambda_a=a.lambda_a, align=AlignWeights(a.lambda_1, a.lambda_2, a.smooth_l1_beta))


class CutLatents:
    """The sampled latents z, cut from the encoder, for `alignment.balance: gradient`.

    What weighs the alignment is how hard the reconstruction pulls at z. The reconstruction's backward pass ends at ``latents``,
    and so leaves that gradient there before the alignment's weight is needed: no part of the networks is passed twice.
    """

    def __init__(self, z: Tensor, share: Share, processes: Processes):
        self.z, self.share, self.processes = z, share, processes
        self.latents = z.detach().requires_grad_()

    def __call__(self, pixel_loss: Tensor, align_loss: Tensor) -> Tensor:
        """The factor of lambda_a, once the gradient of Eq. 3 is in the decoder's parameters and at the latents."""
        self.processes.backward(pixel_loss, self.share)
        (gradient,) = torch.autograd.grad(align_loss * self.share.weight, self.latents, retain_graph=True)
        assert self.latents.grad is not None, "the backward pass ends at the latents"
        return gradient_balance(self.latents.grad, gradient, self.processes.average)

    def backward(self, loss: AutoencoderLoss) -> None:
        """Adds what is left of Eq. 5's gradient: the alignment's, the KL's, and the encoder's share of all that pulls at z."""
        self.processes.backward(loss.weighted["align"], self.share)
        torch.autograd.backward([self.z, loss.weighted["kl"] * self.share.weight], [self.latents.grad, None])
