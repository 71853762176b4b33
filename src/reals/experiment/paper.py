"""paper.yaml: what the paper fixes for every scale, and our named choices where it is silent."""

from typing import Literal

from pydantic import Field

from reals.experiment.reading import Strict


class Alignment(Strict):
    lambda_1: float
    lambda_2: float
    smooth_l1_beta: float = Field(gt=0)
    balance: Literal["constant", "gradient"]


class AutoencoderLoss(Strict):
    """What the paper leaves open in Eqs. 3 and 5 and their optimizers."""

    pixel: Literal["mse", "l1"]
    lambda_p: float = Field(ge=0)
    lambda_g: float = Field(ge=0)
    gan_weight: Literal["constant", "adaptive"]
    gan_start: int = Field(ge=0)
    gan_ramp: int = Field(ge=0)
    betas: tuple[float, float]
    weight_decay: float = Field(ge=0)
    grad_clip: float | None = Field(gt=0)


class TransformerLoss(Strict):
    label_dropout: float = Field(ge=0, lt=1)
    learn_sigma: bool
    repa_coefficient: float = Field(ge=0)
    repa_grad_clip: float = Field(gt=0)


class Sampler(Strict):
    diffusion_form: str
    diffusion_norm: float = Field(gt=0)
    last_step: str
    last_step_size: float = Field(ge=0, lt=1)


class Augmentations(Strict):
    crop_scale: tuple[float, float]
    crop_ratio: tuple[float, float]
    flip_probability: float
    blur_probability: float
    blur_sigma: tuple[float, float]
    blur_kernel_fraction: float
    grayscale_probability: float


class Paper(Strict):
    alignment: Alignment
    autoencoder: dict[str, AutoencoderLoss]
    transformer: TransformerLoss
    sampler: Sampler
    augmentations: Augmentations
    knn_k: int = Field(gt=0)
    pr_k: int = Field(gt=0)
    is_split: int = Field(gt=0)
