"""Networks of a scale file: sizes and training of each, or where it is brought in from."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from reals.experiment.metric_table import ADM_EXTRACTOR, CLIP_EXTRACTOR, DINOV2_EXTRACTOR
from reals.experiment.reading import Name, Seed, Strict

Positive = Annotated[int, Field(gt=0)]


def _fp32_is_none(value: Any) -> Any:
    return None if value == "fp32" else value


# Plain float32 is None, so that it stands in no spec: the ids of networks made before there was a choice stay as they are.
Precision = Annotated[
    Literal["tf32", "bf16", "fp16"] | None,
    BeforeValidator(_fp32_is_none),
    WithJsonSchema({"enum": ["fp32", "tf32", "bf16", "fp16", None]}),
]
# fp16 is left out where an autoencoder runs: the activations of SD-VAE's decoder overflow it.
AutoencoderPrecision = Annotated[
    Literal["tf32", "bf16"] | None,
    BeforeValidator(_fp32_is_none),
    WithJsonSchema({"enum": ["fp32", "tf32", "bf16", None]}),
]


def _is_a_share(value: tuple[float, float] | None) -> tuple[float, float] | None:
    if value is not None and not 0 <= value[0] < value[1] <= 1:
        raise ValueError(f"{list(value)} is no share of the images; write e.g. [0, 0.5] for one half and [0.5, 1] for the other")
    return value


# Two networks with shares that do not meet have seen no image in common.
Share = Annotated[tuple[float, float] | None, AfterValidator(_is_a_share)]


class LatentConfig(Strict):
    """Latents are channels x (resolution / factor)^2."""

    channels: int = Field(gt=0)
    """Channels of a latent."""
    factor: int = Field(gt=0)
    """Pixels along a side for one latent cell."""
    scale_images: int = Field(default=10_000, gt=0)
    """Training images (at most) on which the latent scale is measured."""
    cells: Annotated[int, Field(gt=1)] | None = None
    """Cells along a side that one patch token of the teacher covers, and is aligned with together; null: one, as in the paper."""
    normalise: Literal["channels"] | None = None
    """channels: what is measured is each channel's mean and std, and latents are normalised by them (diffusers' latents_mean and
    latents_std); null: one factor, 1/std of all."""


class WithWeights(Strict):
    """A network that may be brought in as a local file."""

    @model_validator(mode="after")
    def _checks_a_file(self) -> Self:
        if getattr(self, "sha256", None) is not None and getattr(self, "weights", None) is None:
            raise ValueError(
                "sha256: is the checksum of weights, a local file, and none is named; add weights, or leave sha256 out"
            )
        return self


class TrainedTeacher(Strict):
    """A small timm ViT trained in the DAG as a classifier of the training split."""

    kind: Literal["trained"]
    """Trained here."""
    name: Name
    """The teacher's name: part of its id."""
    width: int = Field(gt=0)
    """Width of its tokens."""
    depth: int = Field(gt=0)
    """Blocks."""
    heads: int = Field(gt=0)
    """Attention heads."""
    patch: int = Field(gt=0)
    """Side of a patch in pixels; its grid must be the latents', over ``latent.cells`` where that is set."""
    steps: int = Field(gt=0)
    """Training steps."""
    batch: int = Field(gt=0)
    """Images a step."""
    lr: float = Field(gt=0)
    """Learning rate."""
    seed: Seed
    """Seed of its weights and batches."""
    crop_scale: tuple[float, float] | None = None
    """Train on random resized crops of this share of the area, as DINOv2 does; null: small shifts."""
    patch_loss: float | None = Field(default=None, gt=0)
    """Weight of each patch token's own classification, as DINOv2 has a loss of patches; null: cls alone."""
    share: Share = None
    """The part of the training split that it is trained on, as [from, to) in an order that the data's seed shuffles; null: all."""

    @model_validator(mode="after")
    def _crops_are_shares(self) -> Self:
        if self.crop_scale and not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale: {list(self.crop_scale)} are no shares of the area; write e.g. [0.3, 1.0]")
        return self


class PretrainedTeacher(WithWeights):
    """A pretrained timm ViT: a hub name, or a local weights file with its checksum."""

    kind: Literal["timm"]
    """Brought in through timm."""
    name: Name
    """The teacher's name: part of its id."""
    model: str
    """timm's name of the model."""
    patch: int = Field(gt=0)
    """Side of a patch in pixels."""
    weights: str | None = None
    """A local file, for machines without the hub."""
    sha256: str | None = None
    """Checksum of that file: another is refused."""


Teacher = Annotated[TrainedTeacher | PretrainedTeacher, Field(discriminator="kind")]


class TrainedBase(Strict):
    """An autoencoder trained here from scratch, without alignment."""

    kind: Literal["trained"]
    """Trained here."""
    steps: int = Field(gt=0)
    """Training steps."""
    batch: int = Field(gt=0)
    """Images a step."""
    lr: float = Field(gt=0)
    """Learning rate."""
    lambda_k: float = Field(ge=0)
    """Weight of the KL, applied as written and not times lambda_k_factor: the paper has no such training."""


class PretrainedBase(Strict):
    """A pretrained autoencoder."""

    kind: Literal["diffusers"]
    """Brought in through diffusers."""
    path: str
    """A diffusers folder, an original LDM file, or a hub name."""
    sha256: str | None = None
    """Checksum of its weights file: another is refused."""
    scaling_factor: Literal["own", "measured"] = "own"
    """own: what its config says, as DiT, SiT and REPA train on SD-VAE's latents; measured: 1/std, as for what is trained here."""


class AliasBase(Strict):
    """Another base under a second name."""

    kind: Literal["alias"]
    """The same as another entry."""
    of: Name
    """The entry that it is."""


Base = Annotated[TrainedBase | PretrainedBase | AliasBase, Field(discriminator="kind")]


class GanConfig(Strict):
    """The PatchGAN discriminator."""

    start: int | None = Field(default=None, ge=0)
    """Step at which it starts to count, where that differs from the preset's gan_start."""
    ramp: int | None = Field(default=None, ge=0)
    """Steps over which its weight grows, where they differ from the preset's gan_ramp."""
    channels: int = Field(gt=0)
    """Channels of its first layer."""
    layers: int = Field(ge=1)
    """Strided layers."""


class LpipsConfig(Strict):
    """The perceptual loss, which also measures the metric LPIPS."""

    net: Literal["vgg", "alex", "squeeze"]
    """Backbone."""
    backbone: Literal["pretrained", "random"]
    """pretrained: torchvision's weights; random: where none can be downloaded."""
    weights: str | None = None
    """A torchvision backbone state dict, for offline machines."""

    @model_validator(mode="after")
    def _one_backbone(self) -> Self:
        if self.backbone == "random" and self.weights is not None:
            raise ValueError("backbone 'random' takes no weights; set backbone: pretrained")
        return self


class AutoencoderConfig(Strict):
    """Architecture (diffusers' AutoencoderKL) and fine-tuning of the autoencoder (docs/autoencoder.md)."""

    block_out_channels: tuple[Positive, ...]
    """Channels of each resolution, finest first; n entries downsample by 2^(n-1), which must be latent.factor."""
    layers_per_block: int = Field(ge=1)
    """Residual layers of each resolution."""
    norm_num_groups: int = Field(ge=1)
    """Groups of the norms; divides each of block_out_channels."""
    steps: int = Field(gt=0)
    """Steps of fine-tuning."""
    batch: int = Field(gt=0)
    """Images a step, over all processes."""
    lr: float = Field(gt=0)
    """Learning rate of fine-tuning."""
    align_hidden: int = Field(gt=0)
    """Hidden width of the align MLP."""
    preset: str = "default"
    """The set of loss weights, of paper.yaml's autoencoder block: what the paper leaves open."""
    gan: GanConfig
    """The PatchGAN discriminator."""
    lpips: LpipsConfig
    """The perceptual loss, which also measures the metric LPIPS."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of the average of the weights that is kept; null: no average, as the paper mentions none."""
    unit_scale: bool = False
    """Fine-tuning starts from the base rescaled, exactly, to latents of unit variance."""
    held_out_images: int = Field(default=64, gt=0)
    """Held-out images whose PSNR and latent statistics are logged."""
    held_out_every: int = Field(default=50, gt=0)
    """Steps between those."""
    precision: AutoencoderPrecision = None
    """Precision of the networks' matrix products: fp32 (default), tf32 or bf16. Part of the id."""


class EncodingConfig(Strict):
    """What frozen networks make of the training images once, for the trainings to read: latents, and features where they are
    cached."""

    precision: AutoencoderPrecision = None
    """Precision of matrix products in the encoder, and in the teacher of cached features: fp32 (default), tf32 or bf16. Part of
    the id."""


class SizeConfig(Strict):
    """A transformer size."""

    width: int = Field(gt=0)
    """Width of the tokens; divides by 2 x heads."""
    depth: int = Field(gt=0)
    """Blocks."""
    heads: int = Field(gt=0)
    """Attention heads."""
    repa_depth: int = Field(gt=0)
    """The block after which REPA aligns."""


class RepaConfig(Strict):
    """REPA's alignment of the transformer."""

    teacher: Literal["large", "base"]
    """Which of the teachers."""
    hidden: int = Field(gt=0)
    """Hidden width of the projector."""


class TransformerTraining(Strict):
    """Training of the transformers."""

    batch: int = Field(gt=0)
    """Latents a step, over all processes."""
    lr: float = Field(gt=0)
    """Learning rate."""
    ema: float = Field(ge=0, lt=1)
    """Decay of the average of the weights, which samples are drawn from."""
    precision: Precision = None
    """Precision of the networks' matrix products: fp32 (default), tf32, bf16 or fp16. Part of the id."""


class TrainedExtractor(Strict):
    """A small CNN trained in the DAG on the training split; never the teacher's architecture or seed."""

    kind: Literal["small-cnn"]
    """Trained here."""
    name: Name
    """Its name: printed beside each metric on its features, and part of their ids."""
    width: int = Field(gt=0)
    """Channels of its first layers."""
    steps: int = Field(gt=0)
    """Training steps."""
    batch: int = Field(gt=0)
    """Images a step."""
    lr: float = Field(gt=0)
    """Learning rate."""
    seed: Seed
    """Seed of its weights and batches."""
    blocks: Annotated[int, Field(ge=1)] | None = None
    """Residual blocks a stage; 1 unless set."""
    share: Share = None
    """The part of the training split that it is trained on, as a teacher's; null: all."""
    shift: Annotated[int, Field(ge=1)] | None = None
    """Pixels by which training images are moved at most; null: one for each 32 of the resolution."""


class InceptionExtractor(WithWeights):
    """The Inception-v3 of ADM's evaluator."""

    kind: Literal["inception"]
    """Brought in."""
    name: Name = ADM_EXTRACTOR
    """Its name: metrics on its features bear their plain names."""
    weights: str | None = None
    """A local file, for machines without a network."""
    sha256: str | None = None
    """Checksum of that file: another is refused."""


class DinoExtractor(WithWeights):
    """DINOv2's ViT-L/14 as FD-DINOv2 takes it (docs/evaluation.md)."""

    kind: Literal["dinov2"]
    """Brought in."""
    name: Name = DINOV2_EXTRACTOR
    """Its name."""
    weights: str | None = None
    """A local file, timm's or the authors' own, for machines without a network."""
    sha256: str | None = None
    """Checksum of that file: another is refused."""


class ClipExtractor(WithWeights):
    """CLIP's ViT-L/14 at 336 pixels, as CMMD takes it (docs/evaluation.md)."""

    kind: Literal["clip-l-14-336"]
    """Brought in."""
    name: Name = CLIP_EXTRACTOR
    """Its name."""
    weights: str | None = None
    """A local file, timm's, for machines without a network."""
    sha256: str | None = None
    """Checksum of that file: another is refused."""


VIT_MODELS = {
    "dinov2": "vit_large_patch14_dinov2.lvd142m",
    "clip-l-14-336": "vit_large_patch14_clip_quickgelu_336.openai",
}
"""Kind of a ViT that images are judged by -> timm's name of it."""
SIDES = {"dinov2": 224, "clip-l-14-336": 336}
"""Kind -> the side in pixels that it is fed with."""
PublishedExtractor = InceptionExtractor | DinoExtractor | ClipExtractor
AnyExtractor = TrainedExtractor | PublishedExtractor
Extractor = Annotated[TrainedExtractor | InceptionExtractor, Field(discriminator="kind")]
Dino = Annotated[TrainedExtractor | DinoExtractor, Field(discriminator="kind")]
Clip = Annotated[TrainedExtractor | ClipExtractor, Field(discriminator="kind")]
