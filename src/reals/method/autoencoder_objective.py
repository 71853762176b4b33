"""The autoencoder's loss: in pixels (Eq. 3), on the latents (Eq. 4), their sum (Eq. 5); and weights that balance its terms.

L_pixel  = MSE + lambda_g L_GAN + lambda_p LPIPS        (3)
L_latent = lambda_k KL + lambda_a L_align               (4)
L        = L_pixel + L_latent                           (5)
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from reals.method.alignment import AlignNetworks, AlignWeights, align_loss
from reals.method.models.autoencoder import kl_per_image
from reals.method.models.discriminator import generator_loss
from reals.method.objectives import wide
from reals.method.vf import Margins, vf_loss

LARGEST_FACTOR = 1e4  # VQGAN's clamp of its adaptive weight

Balance = Callable[[Tensor, Tensor], Tensor | float]
"""(a loss, the term beside it) -> what the term's lambda is multiplied by."""


@dataclass(frozen=True)
class LossWeights:
    """The lambdas of Eqs. 2 to 4, at the paper's values where it gives them; ``pixel`` is mse (Eq. 3) or l1 (LDM's).

    The paper gives no lambda_p, lambda_g and lambda_a: these are our choice. With ``Margins`` for ``align``, VA-VAE's loss takes the
    place of L_align, and lambda_a is its w_hyper.
    """

    pixel: Literal["mse", "l1"] = "mse"
    lambda_p: float = 1.0
    lambda_g: float = 0.1
    lambda_k: float = 2e-5
    lambda_a: float = 1.0
    align: AlignWeights | Margins = field(default_factory=AlignWeights)

    def __post_init__(self) -> None:
        """ValueError for a pixel loss that there is not: a script would else train on another one than it names."""
        if self.pixel not in ("mse", "l1"):
            raise ValueError(f"LossWeights: pixel {self.pixel!r}: expected mse or l1")


@dataclass(frozen=True)
class AutoencoderLoss:
    """``total`` is L of Eq. 5, the scalar to differentiate; the rest is what it is made of.

    ``raw`` and ``weighted`` hold its terms by name (mse or l1, lpips, gan, align, kl: those that take part), before and after
    their lambdas, with their graphs. ``parts`` are the losses that L_align is made of, detached.
    """

    total: Tensor
    raw: dict[str, Tensor]
    weighted: dict[str, Tensor]
    parts: dict[str, Tensor]

    def record(self) -> dict[str, Tensor]:
        """All of it as detached scalars, for the log."""
        weighted = {f"{name}_weighted": term for name, term in self.weighted.items()}
        return {name: term.detach() for name, term in {"loss": self.total, **self.raw, **weighted, **self.parts}.items()}


def autoencoder_loss(
    x: Tensor,
    reconstruction: Tensor,
    mean: Tensor,
    logvar: Tensor,
    z: Tensor,
    weights: LossWeights = LossWeights(),
    *,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    discriminator: Callable[[Tensor], Tensor] | None = None,
    align: AlignNetworks | None = None,
    teacher: tuple[Tensor, Tensor] | None = None,
    gan_balance: Balance | None = None,
    align_balance: Balance | None = None,
) -> AutoencoderLoss:
    """Eq. 5 for images x [B, 3, H, W] in [-1, 1], their reconstruction, and the posterior that z [B, C, h, w] was drawn from.

    Pixel loss and LPIPS are means over everything. The KL is summed over a latent's dimensions and averaged over images, the
    only reading in which the paper's lambda_k matters. L_align compares what ``align`` makes of z with the ``teacher``'s
    features (patches [B, h*w, D], cls [B, D]) of the same images. LPIPS and GAN take part where their network is given and their
    lambda is above 0, the alignment where its networks are given, the KL always. All is computed in float32 or wider, whatever the
    networks ran in. ``gan_balance`` and ``align_balance`` give factors of lambda_g and lambda_a, from the
    reconstruction's loss (without the GAN) and L_GAN, and from L_pixel and L_align; of VA-VAE's loss from the reconstruction's
    loss too. Raises ValueError where shapes do not match or the teacher's features are missing.
    """
    lambda_p, lambda_k = weights.lambda_p, weights.lambda_k
    lambda_g: Tensor | float = weights.lambda_g
    lambda_a: Tensor | float = weights.lambda_a
    if reconstruction.shape != x.shape:
        raise ValueError(f"autoencoder_loss: the reconstruction is {tuple(reconstruction.shape)}, the images {tuple(x.shape)}")
    x, reconstruction, mean, logvar, z = (wide(tensor) for tensor in (x, reconstruction, mean, logvar, z))
    absent = x.new_zeros(())
    lpips = gan = aligned = absent
    parts: dict[str, Tensor] = {}

    pixel = F.l1_loss(reconstruction, x) if weights.pixel == "l1" else F.mse_loss(reconstruction, x)
    if perceptual is not None and lambda_p > 0:
        lpips = perceptual(reconstruction, x).mean()
    restored = pixel + lambda_p * lpips
    if discriminator is not None and lambda_g > 0:
        gan = generator_loss(discriminator(reconstruction))
        if gan_balance is not None:
            lambda_g = lambda_g * gan_balance(restored, gan)
    pixel_loss = restored + lambda_g * gan  # Eq. 3

    if align is not None:
        if teacher is None:
            raise ValueError("autoencoder_loss: align networks are given, but no teacher's features to compare with")
        beside = pixel_loss
        if isinstance(weights.align, Margins):
            beside = restored
            aligned, parts = vf_loss(align, z, teacher[0], weights.align)
        else:
            aligned, parts = align_loss(align, z, *teacher, weights.align)  # Eqs. 1 and 2
        if align_balance is not None:
            lambda_a = lambda_a * align_balance(beside, aligned)
    kl = kl_per_image(mean, logvar).mean()
    total = pixel_loss + lambda_a * aligned + lambda_k * kl  # Eqs. 4 and 5

    terms = {weights.pixel: (1.0, pixel), "lpips": (lambda_p, lpips), "gan": (lambda_g, gan),
             "align": (lambda_a, aligned), "kl": (lambda_k, kl)}  # fmt: skip
    taking_part = {name: pair for name, pair in terms.items() if pair[1] is not absent}
    raw = {name: term for name, (_, term) in taking_part.items()}
    weighted = {name: factor * term for name, (factor, term) in taking_part.items()}
    return AutoencoderLoss(total, raw, weighted, parts)


def adaptive_weight(
    loss: Tensor,
    other: Tensor,
    layer: Tensor,
    average: Callable[[list[Tensor]], None] | None = None,
    largest: float = LARGEST_FACTOR,
) -> Tensor:
    """|d loss / d layer| / |d other / d layer|: times this, ``other`` pulls as hard as ``loss`` at that layer.

    VQGAN's for the decoder's last layer, VA-VAE's for the encoder's. At most ``largest``. ``average`` makes gradients, in place,
    means over the processes that share the batch.
    """
    gradients = [torch.autograd.grad(term, layer, retain_graph=True)[0] for term in (loss, other)]
    if average is not None:
        average(gradients)
    a, b = (torch.linalg.vector_norm(g) for g in gradients)
    return (a / (b + 1e-4)).clamp(max=largest)


def gradient_balance(reconstruction: Tensor, alignment: Tensor, average: Callable[[list[Tensor]], None] | None = None) -> Tensor:
    """|reconstruction| / |alignment| of two gradients at the latents: times this, the alignment pulls as hard as the reconstruction.

    At most 1e4. Each process holds the gradients at its own images' latents; ``average`` as `adaptive_weight`'s.
    """
    squares = torch.stack([reconstruction.square().sum(), alignment.square().sum()])
    if average is not None:
        average([squares])
    a, b = squares.sqrt()
    return (a / b.clamp(min=torch.finfo(torch.float32).tiny)).clamp(max=LARGEST_FACTOR)
