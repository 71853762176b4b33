"""What each kind of artefact is made of: every value that can change its result, typed.

A spec's identity (`to_identity`) is what an artefact's id is the hash of and what its spec.json holds. It has the ids of the
artefacts it is made from, and no paths, process counts, log intervals or total steps of a run (milestones are file names, so a
longer run extends a shorter one). An optional value that is None is left out, so that a new one leaves old ids alone.
"""

from dataclasses import dataclass, field, fields, is_dataclass
from math import ceil
from typing import Any, ClassVar, Literal, TypeAlias

from reals.experiment.sampler_table import SamplerName
from reals.experiment.stage_table import OF_KIND


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Images, cut and split."""

    kind: ClassVar[str] = "data"
    source: str
    resolution: int
    storage: str
    held_out: float | None
    classes: str | None  # hash of the listed names; None: every class
    images_per_class: int | None
    unreadable: str
    exif_rotate: bool
    version: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class TrainedTeacherSpec:
    """A small ViT trained here."""

    kind: ClassVar[str] = "teacher"
    data: str
    grid: int  # patch tokens along a side
    flip: bool
    width: int
    depth: int
    heads: int
    patch: int
    steps: int
    batch: int
    lr: float
    seed: int
    crop_scale: tuple[float, float] | None
    patch_loss: float | None
    share: tuple[float, float] | None  # of the training split; None: all of it


@dataclass(frozen=True, kw_only=True)
class PretrainedTeacherSpec:
    """A published ViT by its timm name."""

    kind: ClassVar[str] = "teacher"
    grid: int
    positions: Literal["native"] = "native"  # position embeddings are resampled from the network's own grid
    model: str
    patch: int
    sha256: str | None


@dataclass(frozen=True, kw_only=True)
class TrainedExtractorSpec:
    """A small CNN trained here."""

    kind: ClassVar[str] = "extractor"
    data: str
    flip: bool
    width: int
    steps: int
    batch: int
    lr: float
    seed: int
    blocks: int | None
    share: tuple[float, float] | None  # of the training split; None: all of it
    shift: int | None  # pixels; None: one for each 32 of the resolution


@dataclass(frozen=True, kw_only=True)
class InceptionSpec:
    """FID's Inception."""

    kind: ClassVar[str] = "extractor"
    sha256: str | None


@dataclass(frozen=True, kw_only=True)
class VitExtractorSpec:
    """A published ViT that images are judged by, by its timm name, with its own resizing."""

    kind: ClassVar[str] = "extractor"
    model: str
    resize: Literal["pil"]
    sha256: str | None


@dataclass(frozen=True, kw_only=True)
class FeaturesSpec:
    """A teacher's features of all training images."""

    kind: ClassVar[str] = "features"
    data: str
    teacher: str
    precision: str  # of what is stored
    compute: Literal["tf32", "bf16"] | None  # precision of the teacher's products; None: float32
    flip: bool
    targets: Literal["cls"] | None  # None: patches and cls


@dataclass(frozen=True, kw_only=True)
class GanSpec:
    """The discriminator, and when it starts to count (in steps)."""

    start: int
    ramp: int
    channels: int
    layers: int

    @property
    def smallest(self) -> int:
        """Pixels of a side that a discriminator with so many strided layers needs at least: one logit."""
        return 3 * 2**self.layers


@dataclass(frozen=True, kw_only=True)
class LpipsSpec:
    net: Literal["vgg", "alex", "squeeze"]
    backbone: Literal["pretrained", "random"]
    precision: Literal["bf16"] | None  # of its backbone; None: float32


@dataclass(frozen=True, kw_only=True)
class AlignSpec:
    """Alignment with a teacher's features (Eqs. 1 to 3)."""

    patch: bool
    cls: bool
    layers: int
    hidden: int
    lambda_a: float
    lambda_1: float
    lambda_2: float
    smooth_l1_beta: float
    balance: Literal["constant", "gradient"]
    cells: int | None  # latent cells a side that a patch feature is aligned with; None: one


@dataclass(frozen=True, kw_only=True)
class VfSpec:
    """Alignment with a teacher's patch features by VA-VAE's loss, whose networks are one linear map."""

    patch: ClassVar[bool] = True
    cls: ClassVar[bool] = False
    layers: ClassVar[int] = 1
    hidden: ClassVar[int] = 0  # one layer has none
    lambda_a: float
    cosine_margin: float
    distance_margin: float
    cells: int | None  # as in `AlignSpec`


@dataclass(frozen=True, kw_only=True)
class EquivarianceSpec:
    """EQ-VAE's regulariser (`method.equivariance`)."""

    probability: float  # of a step that decodes transformed latents
    low_resolution: float  # of each other step, that it sees images scaled down
    smallest: float  # scale of a side
    cells: int | None  # as in `AlignSpec`: sides are whole numbers of tokens, so that what is aligned can be scaled too

    def sides(self, side: int) -> range:
        """The sides, in cells, to which latents of ``side`` cells a side are scaled; empty where one token is all there is."""
        cells = self.cells or 1
        return range(max(1, ceil(side * self.smallest / cells)) * cells, side, cells)


@dataclass(frozen=True, kw_only=True)
class TrainedAutoencoderSpec:
    """An autoencoder trained here: a base from nothing, or one fine-tuned from ``init``."""

    kind: ClassVar[str] = "autoencoder"
    data: str
    features: str | None  # where the teacher's features come from: their cache, or the teacher itself
    teacher: str | None
    latent_channels: int
    block_out_channels: tuple[int, ...]
    layers_per_block: int
    norm_num_groups: int
    pixel: Literal["mse", "l1"]
    lambda_p: float
    lambda_g: float
    gan_weight: Literal["constant", "adaptive"]
    betas: tuple[float, float]
    weight_decay: float
    grad_clip: float | None
    flip: bool
    gan: GanSpec
    lpips: LpipsSpec
    ema: float | None
    scale_images: int
    seed: int
    precision: Literal["tf32", "bf16"] | None  # None: float32
    init: str | None  # id of the autoencoder it starts from
    unit_scale: bool | None
    steps: int
    batch: int
    lr: float
    lambda_k: float
    align: AlignSpec | VfSpec | None
    equivariance: EquivarianceSpec | None
    normalise: Literal["channels"] | None  # None: one factor for all


@dataclass(frozen=True, kw_only=True)
class PretrainedAutoencoderSpec:
    """A published autoencoder; what follows ``sha256`` is given where its latent scale is measured on our images."""

    kind: ClassVar[str] = "autoencoder"
    data: str | None
    latent_channels: int
    block_out_channels: tuple[int, ...]
    layers_per_block: int
    norm_num_groups: int
    pretrained: str
    sha256: str | None
    scale_images: int | None
    flip: bool | None
    seed: int | None
    normalise: Literal["channels"] | None


@dataclass(frozen=True, kw_only=True)
class LatentsSpec:
    """An autoencoder's posterior moments of all training images."""

    kind: ClassVar[str] = "latents"
    data: str
    autoencoder: str
    precision: str  # of what is stored
    compute: Literal["tf32", "bf16"] | None  # precision of the encoder's products; None: float32
    mirrored: Literal[False] | None  # False: not cached, as the data do not flip; None: cached


@dataclass(frozen=True, kw_only=True)
class RepaSpec:
    depth: int
    hidden: int
    coefficient: float
    grad_clip: float
    teacher_precision: Literal["bf16", "fp16"] | None  # of one that runs along; None: float32


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """The training of a transformer, however long."""

    kind: ClassVar[str] = "run"
    latents: str
    features: str | None  # REPA's, as in `TrainedAutoencoderSpec`
    teacher: str | None
    family: Literal["DiT", "SiT"]
    patch: int
    width: int
    depth: int
    heads: int
    latent_channels: int
    latent_size: int
    batch: int
    lr: float
    ema: float
    precision: Literal["tf32", "bf16", "fp16"] | None  # None: float32
    label_dropout: float
    learn_sigma: bool
    flip: bool
    seed: int
    repa: RepaSpec | None
    interpolant: Literal["gvp", "vp"] | None = field(metadata={"key": "path"})  # None: SiT's linear, or DiT
    scaling_factor: float | None  # None: the autoencoder's own
    times: Literal["logit-normal"] | None  # None: uniform


@dataclass(frozen=True, kw_only=True)
class SdeSpec:
    """Settings of SiT's SDE samplers."""

    diffusion_form: str
    diffusion_norm: float
    last_step: str
    last_step_size: float


@dataclass(frozen=True, kw_only=True)
class SamplesSpec:
    """Images drawn from a milestone of a run."""

    kind: ClassVar[str] = "samples"
    run: str
    autoencoder: str
    step: int
    sampler: SamplerName
    cfg: float
    steps: int | None  # None: as many as the solver takes
    interval: tuple[float, float] | None
    interval_time: Literal["noise", "data"] | None
    cfg_channels: Literal["3", "all"] | None
    n: int
    labels: Literal["random", "balanced"]
    seed: int
    interpolant: Literal["gvp", "vp"] | None  # that of the run
    eta: float | None
    sde: SdeSpec | None = field(metadata={"key": "path"})  # of the SDE samplers
    precision: Literal["tf32", "bf16"] | None  # of the products in transformer and decoder; None: float32
    end: float | None  # time at which the solver stops (`sampler_table.VP_END`); None: at the data, 1


@dataclass(frozen=True, kw_only=True)
class ReferenceSpec:
    """Statistics of the real images by one feature extractor; ``source`` is a published file that holds them."""

    kind: ClassVar[str] = "reference"
    data: str
    extractor: str
    source: str | None
    pr_reference: int
    seed: int | None  # chooses the images of precision and recall; None: the published file's first ones
    chosen: Literal[True] | None  # True: made of those alone; None: statistics of all images


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec:
    """Metrics of samples; ``second``, ``fd_dinov2`` and ``cmmd`` are the references by further feature extractors."""

    kind: ClassVar[str] = "evaluation"
    samples: str
    reference: str
    pr_k: int
    is_split: int
    seed: int
    second: str | None
    fd_dinov2: str | None
    cmmd: str | None
    intervals: Literal[True] | None  # of FID too


@dataclass(frozen=True, kw_only=True)
class AugmentationsSpec:
    crop_scale: tuple[float, float]
    crop_ratio: tuple[float, float]
    flip_probability: float
    blur_probability: float
    blur_sigma: tuple[float, float]
    blur_kernel_fraction: float
    grayscale_probability: float


@dataclass(frozen=True, kw_only=True)
class AnalysisSpec:
    """Measurements of an autoencoder and its latents."""

    kind: ClassVar[str] = "analysis"
    data: str
    autoencoder: str
    extractor: str
    images: int
    reconstruction_images: int | None
    probe_images: int
    tsne_classes: int
    tsne_images: int
    tsne_split: Literal["train"] | None  # that they are of; None: held out
    tsne_grid: int | None  # cells a side, standardised; None: the mean over all tokens
    tsne_drawn: Literal[False] | None  # None: yes; no where Figure 1 does not show this autoencoder: the map is dear
    augmentations: AugmentationsSpec
    knn_k: int
    seed: int
    lpips: LpipsSpec


@dataclass(frozen=True, kw_only=True)
class LabelsSpec:
    """A folder of images with dense labels, by name and version; ``head`` is the file name of a published head."""

    name: str
    layout: Literal["voc", "ade", "depth"]
    version: int
    classes: int | None
    relative: bool | None
    head: str | None
    experimental: bool | None


@dataclass(frozen=True, kw_only=True)
class DownstreamSpec:
    """Masks and depth read from generated latents through the align network."""

    kind: ClassVar[str] = "downstream"
    samples: str
    data: str
    features: str | None  # as in `TrainedAutoencoderSpec`
    teacher: str | None
    autoencoder: str | None  # the base, where labelled images are encoded by it too
    target: Literal["ink", "foreground", "labelled"]
    steps: int
    batch: int
    lr: float
    segmentation: LabelsSpec | None
    depth: LabelsSpec | None
    held_out_images: int
    gallery: int
    seed: int


TeacherSpec: TypeAlias = TrainedTeacherSpec | PretrainedTeacherSpec
ExtractorSpec: TypeAlias = TrainedExtractorSpec | InceptionSpec | VitExtractorSpec
AutoencoderSpec: TypeAlias = TrainedAutoencoderSpec | PretrainedAutoencoderSpec
Spec: TypeAlias = (
    DataSpec | TeacherSpec | ExtractorSpec | FeaturesSpec | AutoencoderSpec | LatentsSpec | RunSpec | SamplesSpec | ReferenceSpec
    | EvaluationSpec | AnalysisSpec | DownstreamSpec
)  # fmt: skip


def to_identity(spec: Spec) -> dict[str, Any]:
    """The spec as plain JSON values under the keys that ids are made of, with its stage's `rev`; what is None is left out."""
    return {"kind": spec.kind, "rev": OF_KIND[spec.kind].rev, **_plain(spec)}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        given = {f.metadata.get("key", f.name): getattr(value, f.name) for f in fields(value)}
        return {key: _plain(item) for key, item in given.items() if item is not None}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
