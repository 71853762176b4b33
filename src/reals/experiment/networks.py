"""Networks of a scale file: sizes and training of each, or where it is brought in from."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from reals.experiment.metric_table import ADM_EXTRACTOR
from reals.experiment.reading import Name, Seed, Strict


def _fp32_is_none(value: Any) -> Any:
    return None if value == "fp32" else value


Precision = Annotated[Literal["tf32", "bf16", "fp16"] | None, BeforeValidator(_fp32_is_none)]  # None, as it was before


class LatentConfig(Strict):
    channels: int = Field(gt=0)
    factor: int = Field(gt=0)
    scale_images: int = Field(10_000, gt=0)  # training images (at most) on which the latent scale is measured


class TrainedTeacher(Strict):
    """A small timm ViT trained in the DAG as a classifier of the training split."""

    kind: Literal["trained"]
    name: Name
    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    patch: int = Field(gt=0)
    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    lr: float = Field(gt=0)
    seed: Seed
    crop_scale: tuple[float, float] | None = None  # random resized crops of this share of the area; None: small shifts
    patch_loss: float | None = Field(None, gt=0)  # weight of each patch token's own classification; None: cls alone

    @model_validator(mode="after")
    def _crops_are_shares(self):
        if self.crop_scale and not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale: {list(self.crop_scale)} are no shares of the area; write e.g. [0.3, 1.0]")
        return self


class PretrainedTeacher(Strict):
    """A pretrained timm ViT: a hub name, or a local weights file with its checksum."""

    kind: Literal["timm"]
    name: Name
    model: str
    patch: int = Field(gt=0)
    weights: str | None = None
    sha256: str | None = None


Teacher = Annotated[TrainedTeacher | PretrainedTeacher, Field(discriminator="kind")]


class TrainedBase(Strict):
    kind: Literal["trained"]
    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    lr: float = Field(gt=0)
    lambda_k: float = Field(ge=0)  # applied as written, not converted: this row is not the paper's


class PretrainedBase(Strict):
    kind: Literal["diffusers"]
    path: str  # a diffusers folder, an original LDM file, or a hub name
    sha256: str | None = None
    # own: what its config says, as DiT, SiT and REPA train on SD-VAE's latents; measured: 1/std, as for what we train
    scaling_factor: Literal["own", "measured"] = "own"


class AliasBase(Strict):
    kind: Literal["alias"]
    of: Name


Base = Annotated[TrainedBase | PretrainedBase | AliasBase, Field(discriminator="kind")]


class GanConfig(Strict):
    """PatchGAN discriminator, and when it starts to count where that differs from the preset."""

    start: int | None = Field(None, ge=0)
    ramp: int | None = Field(None, ge=0)
    channels: int = Field(gt=0)
    layers: int = Field(ge=1)


class LpipsConfig(Strict):
    net: Literal["vgg", "alex", "squeeze"]
    backbone: Literal["pretrained", "random"]
    weights: str | None = None  # a torchvision backbone state dict, for offline machines

    @model_validator(mode="after")
    def _one_backbone(self):
        if self.backbone == "random" and self.weights is not None:
            raise ValueError("backbone 'random' takes no weights; set backbone: pretrained")
        return self


class AutoencoderConfig(Strict):
    """Architecture and fine-tuning of the autoencoder."""

    block_out_channels: tuple[Annotated[int, Field(gt=0)], ...]
    layers_per_block: int = Field(ge=1)
    norm_num_groups: int = Field(ge=1)
    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    lr: float = Field(gt=0)
    align_hidden: int = Field(gt=0)
    preset: str = "default"  # of paper.yaml: what the paper leaves open in the loss
    gan: GanConfig
    lpips: LpipsConfig
    ema: float | None = Field(None, gt=0, lt=1)  # of the weights that are kept; None: no average, as the paper says of none
    unit_scale: bool = False  # fine-tuning starts from the base rescaled, exactly, to latents of unit variance
    held_out_images: int = Field(64, gt=0)  # logged batch: PSNR and latent statistics
    held_out_every: int = Field(50, gt=0)  # steps
    # fp16 is left out: the activations of SD-VAE's decoder overflow it.
    precision: Annotated[Literal["tf32", "bf16"] | None, BeforeValidator(_fp32_is_none)] = None


class SizeConfig(Strict):
    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    repa_depth: int = Field(gt=0)


class RepaConfig(Strict):
    teacher: Literal["large", "base"]
    hidden: int = Field(gt=0)


class TransformerTraining(Strict):
    batch: int = Field(gt=0)
    lr: float = Field(gt=0)
    ema: float = Field(ge=0, lt=1)
    precision: Precision = None


class TrainedExtractor(Strict):
    """A small CNN trained in the DAG on the training split; never the teacher's architecture or seed."""

    kind: Literal["small-cnn"]
    name: Name
    width: int = Field(gt=0)
    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    lr: float = Field(gt=0)
    seed: Seed
    blocks: Annotated[int, Field(ge=1)] | None = None  # residual blocks a stage; 1 unless set


class InceptionExtractor(Strict):
    kind: Literal["inception"]
    name: Name = ADM_EXTRACTOR
    weights: str | None = None
    sha256: str | None = None


Extractor = Annotated[TrainedExtractor | InceptionExtractor, Field(discriminator="kind")]
