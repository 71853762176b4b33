"""paper.yaml: what the paper fixes for every scale, and our named choices where it is silent."""

from typing import Literal

from pydantic import Field

from reals.experiment.reading import Strict
from reals.experiment.sampler_table import DiffusionForm, LastStep


class Alignment(Strict):
    """The alignment loss, Eqs. 1 and 2."""

    lambda_1: float
    """Weight of the cosine term (Eq. 2)."""
    lambda_2: float
    """Weight of the smooth-MSE term (Eq. 2)."""
    smooth_l1_beta: float = Field(gt=0)
    """Where smooth MSE turns from a square into a line."""
    balance: Literal["constant", "gradient"]
    """constant: lambda_a as the sheet says; gradient: times the ratio of the gradients' norms of the reconstruction's and the
    alignment's losses at the sampled latents, the one place where both act (as VA-VAE)."""


class VisionFoundation(Strict):
    """VA-VAE's alignment loss, of rows with align vf."""

    cosine_margin: float = Field(ge=0, lt=1)
    """m1: how far below 1 the cosine of latent and feature may be."""
    distance_margin: float = Field(ge=0, lt=1)
    """m2: how far two latents' cosine may be from that of their features."""


class Equivariance(Strict):
    """EQ-VAE's regulariser, of rows with equivariance."""

    probability: float = Field(gt=0, le=1)
    """Share of the steps that decode transformed latents, where the row says yes."""
    low_resolution: float = Field(ge=0, le=1)
    """Share of the other steps that see the images scaled down."""
    smallest: float = Field(gt=0, lt=1)
    """Smallest scale of a side."""


class AutoencoderLoss(Strict):
    """What the paper leaves open in Eqs. 3 and 5 and their optimizers."""

    pixel: Literal["mse", "l1"]
    """The pixel loss."""
    lambda_p: float = Field(ge=0)
    """Weight of LPIPS."""
    lambda_g: float = Field(ge=0)
    """Weight of the adversarial loss."""
    gan_weight: Literal["constant", "adaptive"]
    """constant: lambda_g; adaptive: times VQGAN's ratio of the gradients' norms at the decoder's last layer."""
    gan_start: int = Field(ge=0)
    """Step at which the discriminator starts to count."""
    gan_ramp: int = Field(ge=0)
    """Steps over which its weight grows to lambda_g."""
    betas: tuple[float, float]
    """Of both AdamW optimizers."""
    weight_decay: float = Field(ge=0)
    """Of both optimizers."""
    grad_clip: float | None = Field(gt=0)
    """Largest norm of a gradient; null: any."""


class TransformerLoss(Strict):
    """Training of DiT, SiT and REPA."""

    label_dropout: float = Field(ge=0, lt=1)
    """Share of labels replaced by the null class, for guidance."""
    learn_sigma: bool
    """Twice the output channels, as the official checkpoints (SiT ignores the second half)."""
    repa_coefficient: float = Field(ge=0)
    """Weight of REPA's alignment."""
    repa_grad_clip: float = Field(gt=0)
    """Largest norm of a gradient in REPA's training; DiT and SiT do not clip."""


class SdeSettings(Strict):
    """The SDE sampler, where a row of evaluations.tsv says nothing else."""

    diffusion_form: DiffusionForm
    """The diffusion coefficient."""
    diffusion_norm: float = Field(gt=0)
    """Its factor."""
    last_step: LastStep
    """The last step."""
    last_step_size: float = Field(ge=0, lt=1)
    """Its size."""


class Augmentations(Strict):
    """The augmentations of semantic consistency (Algorithm 1)."""

    crop_scale: tuple[float, float]
    """Share of the area that a random resized crop takes."""
    crop_ratio: tuple[float, float]
    """Its ratio of width to height."""
    flip_probability: float
    """Of mirroring a view."""
    blur_probability: float
    """Of blurring a view."""
    blur_sigma: tuple[float, float]
    """Of the Gaussian blur, in pixels."""
    blur_kernel_fraction: float
    """Its kernel's share of the image's side, made odd."""
    grayscale_probability: float
    """Of greying a view."""


class Paper(Strict):
    """Constants that hold at every scale."""

    alignment: Alignment
    """The alignment loss, Eqs. 1 and 2."""
    vf: VisionFoundation
    """VA-VAE's alignment loss, of rows with align vf."""
    equivariance: Equivariance
    """EQ-VAE's regulariser, of rows with equivariance."""
    autoencoder: dict[str, AutoencoderLoss]
    """Sets of loss weights; a scale picks one by autoencoder.preset."""
    transformer: TransformerLoss
    """Training of DiT, SiT and REPA."""
    sampler: SdeSettings
    """The SDE sampler, where a row of evaluations.tsv says nothing else."""
    augmentations: Augmentations
    """The augmentations of semantic consistency (Algorithm 1)."""
    knn_k: int = Field(gt=0)
    """Neighbours of the k-NN classifier."""
    pr_k: int = Field(gt=0)
    """Neighbours whose distance is a point's radius in precision and recall."""
    is_split: int = Field(gt=0)
    """Images of one split of the Inception Score."""
