"""How a scale draws and measures: samples, metrics on them, analyses of autoencoders, downstream tasks."""

from typing import Literal, Self

from pydantic import Field, model_validator

from reals.experiment.datasets import LabelsConfig
from reals.experiment.metric_table import JUDGES
from reals.experiment.networks import VIT_MODELS, AnyExtractor, AutoencoderPrecision, Clip, Dino, Extractor, TrainedExtractor
from reals.experiment.reading import Strict


class SamplingConfig(Strict):
    """The samples that evaluations measure."""

    steps: int = Field(ge=2)
    """Steps of the sampler where a row of evaluations.tsv states none: network evaluations of an image, in most samplers."""
    samples: int = Field(gt=0)
    """Images that an evaluation measures."""
    gallery: int = Field(gt=0)
    """Images drawn for figures alone."""
    batch: int = Field(gt=0)
    """Images at a time; changes nothing but speed."""
    shards: int = Field(ge=1)
    """Jobs that an evaluation's images are drawn in."""
    labels: Literal["random", "balanced"] = "random"
    """random: each drawn uniformly, as DiT and SiT do; balanced: class i mod the number of classes."""
    precision: AutoencoderPrecision = None
    """Precision of matrix products in the transformer and the decoder that draw samples: fp32 (default), tf32 or bf16. Part of
    the id."""

    @model_validator(mode="after")
    def _no_empty_shard(self) -> Self:
        if self.shards > self.samples:
            raise ValueError(f"{self.shards} shards of {self.samples} samples: some would be empty; use fewer shards")
        return self


class EvaluationConfig(Strict):
    """The metrics on samples."""

    extractor: Extractor
    """The feature extractor of FID and its kin."""
    pr_reference: int = Field(gt=0)
    """Real images against which precision and recall are measured."""
    reference: str | None = None
    """ADM's .npz; null: statistics of the training images."""
    second: TrainedExtractor | None = None
    """Another feature extractor, for the metric fid_second alone: does the ranking depend on the first?"""
    fd_dinov2: Dino | None = None
    """The extractor of the metric fd_dinov2, FD-DINOv2: {kind: dinov2}, or a small CNN in its place."""
    cmmd: Clip | None = None
    """The extractor of the metric cmmd: {kind: clip-l-14-336}, or a small CNN in its place."""
    intervals: bool = False
    """Measure fid_interval too: half the width of FID's 95% interval over other samples of the same network."""

    @model_validator(mode="after")
    def _extractors_differ(self) -> Self:
        taken = {self.extractor.name: "extractor"}
        for metric, judge in self.judges.items():
            if judge.name in taken:
                first = "the first extractor" if taken[judge.name] == "extractor" else taken[judge.name]
                raise ValueError(f"{JUDGES[metric]}: name '{judge.name}' is {first}'s; another extractor has its own")
            taken[judge.name] = JUDGES[metric]
        return self

    @property
    def judges(self) -> dict[str, AnyExtractor]:
        """Metric -> the further feature extractor that it is measured on."""
        stated = {metric: getattr(self, key) for metric, key in JUDGES.items()}
        return {metric: judge for metric, judge in stated.items() if judge is not None}

    @property
    def published_judges(self) -> dict[str, str]:
        """Key in the scale -> timm's name of the network, of the judges that are brought in and for which no local file is named."""
        return {
            f"evaluation.{JUDGES[metric]}": VIT_MODELS[judge.kind]
            for metric, judge in self.judges.items()
            if judge.kind in VIT_MODELS and getattr(judge, "weights", None) is None
        }


class AnalysisConfig(Strict):
    """The images behind the measurements of autoencoders."""

    images: int = Field(gt=0)
    """Held-out images for semantic consistency, k-NN and the linear probe."""
    reconstruction_images: int | None = Field(default=None, gt=0)
    """Held-out images for rFID, PSNR, SSIM and LPIPS; null: the same."""
    probe_images: int = Field(gt=0)
    """Training images behind k-NN and the linear probe."""
    tsne_classes: int = Field(gt=0)
    """Classes in the t-SNE of Figure 1."""
    tsne_images: int = Field(gt=0)
    """Images of each; all where there are fewer, and the metrics say how many."""
    tsne_split: Literal["train"] | None = None
    """Split that they are of: null: held out; train, where too few of a class are held out."""
    tsne_grid: int | None = Field(default=None, gt=0)
    """What of a latent the t-SNE and the silhouette see: null: its mean over all tokens; n: its means over the cells of an n x n
    grid, each divided by its standard deviation over the images."""


class DownstreamConfig(Strict):
    """The heads of Figure 4, which read masks and depth from latents (docs/downstream.md)."""

    target: Literal["ink", "foreground", "labelled"]
    """What they read: the ink of a digit, the foreground of a photograph, or the labels of segmentation and depth."""
    steps: int = Field(gt=0)
    """Training steps."""
    batch: int = Field(gt=0)
    """Images a step."""
    lr: float = Field(gt=0)
    """Learning rate."""
    segmentation: LabelsConfig | None = None
    """Images with masks, for target labelled."""
    depth: LabelsConfig | None = None
    """Images with depth maps, for target labelled."""

    @model_validator(mode="after")
    def _labels_where_asked(self) -> Self:
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
