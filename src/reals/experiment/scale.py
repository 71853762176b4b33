"""The scale file: how large. Data set, networks, steps, samples and what the jobs ask of machines."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from reals.experiment.datasets import DataConfig, LabelsConfig
from reals.experiment.networks import (
    AutoencoderConfig,
    Base,
    Extractor,
    LatentConfig,
    RepaConfig,
    SizeConfig,
    Teacher,
    TrainedExtractor,
    TransformerTraining,
)
from reals.experiment.reading import Name, Seed, Strict
from reals.experiment.spelling import unspelled
from reals.experiment.stage_table import OF_COMMAND, STAGES

LPIPS_SMALLEST = {"vgg": 16, "alex": 31, "squeeze": 17}  # pixels below which a backbone's last layer is empty


class Seeds(Strict):
    data: Seed = 0
    autoencoder: Seed = 0
    transformer: Seed = 0
    sampling: Seed = 0
    analysis: Seed = 0


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


class EvaluationConfig(Strict):
    extractor: Extractor
    pr_reference: int = Field(gt=0)
    reference: str | None = None  # ADM's .npz; None: statistics of the training images
    second: TrainedExtractor | None = None  # another extractor, for the FID alone: does the ranking depend on the first?

    @model_validator(mode="after")
    def _extractors_differ(self):
        if self.second is not None and self.second.name == self.extractor.name:
            raise ValueError(f"second: name '{self.second.name}' is the first extractor's; a second one has its own")
        return self


class AnalysisConfig(Strict):
    images: int = Field(gt=0)  # held-out images for SC, k-NN and the probe
    reconstruction_images: int | None = Field(None, gt=0)  # for rFID, PSNR, SSIM and LPIPS; None: the same
    probe_images: int = Field(gt=0)  # training images behind k-NN and the linear probe
    tsne_classes: int = Field(gt=0)
    tsne_images: int = Field(gt=0)


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


if TYPE_CHECKING:
    Rule = str
else:
    Rule = Literal[("default", *OF_COMMAND)]  # one of these, but what is made at run time is no type to a type checker


class Resources(Strict):
    """What one job of a stage asks for; of a node, where it takes several. One machine heeds `threads` and `gpu` alone."""

    nodes: int = Field(1, ge=1)  # only the training stages can use more
    threads: int = Field(1, ge=1)
    gpu: int = Field(0, ge=0)
    mem_mb: int = Field(2000, gt=0)
    runtime: int = Field(60, gt=0)  # minutes


class Scale(Strict):
    """One scale file. Keys are explained in config/README.md."""

    name: Name
    sheets: Name | None = None  # a folder of config/sheets/ whose files take the place of config/'s own
    paper: bool = False  # True only where data, sizes, steps and feature extractor are the paper's
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
    resources: dict[Rule, Resources] = Field({})

    @property
    def latent_size(self) -> int:
        return self.data.resolution // self.latent.factor

    def resources_of(self, rule: str) -> Resources:
        """What a job of this rule asks for: its own entry, else the default one, else `Resources` as it stands."""
        return self.resources.get(rule) or self.resources.get("default") or Resources()

    @model_validator(mode="after")
    def _trained_alone(self):
        several = [stage.command for stage in STAGES if stage.several_nodes]
        for rule, asked in self.resources.items():
            if asked.nodes > 1 and rule not in several:
                raise ValueError(f"resources.{rule}.nodes {asked.nodes}: only {' and '.join(several)} can use several nodes")
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
