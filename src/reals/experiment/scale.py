"""The scale file: how large. Data set, networks, steps, samples and what the jobs ask of machines."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from reals.experiment.datasets import DataConfig
from reals.experiment.engine import EngineConfig, Resources, Rule
from reals.experiment.measurement import AnalysisConfig, DownstreamConfig, EvaluationConfig, SamplingConfig
from reals.experiment.networks import (
    AutoencoderConfig,
    Base,
    EncodingConfig,
    LatentConfig,
    Positive,
    RepaConfig,
    SizeConfig,
    Teacher,
    TransformerTraining,
)
from reals.experiment.reading import Name, Seed, Strict
from reals.experiment.spelling import unspelled
from reals.experiment.stage_table import STAGES

LPIPS_SMALLEST = {"vgg": 16, "alex": 31, "squeeze": 17}  # pixels below which a backbone's last layer is empty


class Seeds(Strict):
    """Seeds of all stages. `--config seed=1` sets all but `data`: a repeat on the same data, in the same results folder under
    other ids. Rows with `seeds` of their own, teachers and feature extractors keep theirs."""

    data: Seed = 0
    """The split."""
    autoencoder: Seed = 0
    """Training of autoencoders."""
    transformer: Seed = 0
    """Training of transformers."""
    sampling: Seed = 0
    """Noise and labels of samples."""
    analysis: Seed = 0
    """Choices of images, augmentations and heads."""


class Scale(Strict):
    """How large an experiment is. Keys are explained in config/README.md."""

    name: Name
    """Names the results folder; a copy of a shipped scale needs a name of its own."""
    sheets: Name | None = None
    """A folder of config/sheets/: its autoencoders.tsv, runs.tsv, evaluations.tsv, tables.yaml, tables/, figures.yaml and claim.yaml, each
    where present, take the place of config/'s own."""
    paper: bool = False
    """True only where data, sizes, steps and feature extractor are the paper's; otherwise every table says that its numbers are
    not comparable with the published ones."""
    description: str
    """One line that tables and figures print."""
    seeds: Seeds = Seeds()
    """Seeds of all stages."""
    data: DataConfig
    """The images."""
    latent: LatentConfig
    """Shape and scale of the latents."""
    lambda_k_factor: float = Field(gt=0)
    """Multiplies the sheets' lambda_k, because the KL is a sum over latent dimensions (see demo.yaml)."""
    teachers: dict[Literal["large", "base"], Teacher]
    """The teachers that rows of autoencoders.tsv and REPA name."""
    features: Literal["cached", "cls", "online"]
    """Where teachers' features come from. online: computed in training; cached: on disk (images x tokens x width x 2 bytes, twice
    with flips); cls: only the cls token is cached, for autoencoders aligned to it alone; what needs patches computes them
    online (docs/caches.md)."""
    bases: dict[str, Base]
    """What each row of autoencoders.tsv with `init: base` starts from."""
    autoencoder: AutoencoderConfig
    """Architecture and fine-tuning of the autoencoder."""
    encoding: EncodingConfig = EncodingConfig()
    """The latents that transformers train on, and cached features."""
    models: dict[Literal["S", "B", "L", "XL"], SizeConfig]
    """The transformer sizes that rows of runs.tsv name."""
    repa: RepaConfig
    """REPA's alignment of the transformer."""
    transformer: TransformerTraining
    """Training of the transformers."""
    milestones: dict[str, Positive]
    """Name in the sheets -> training steps of a transformer."""
    pretrained: str = "data/pretrained"
    """The folder of published files that `reals fetch` fills and jobs look into first; no part of any id."""
    engine: EngineConfig = EngineConfig()
    """How training runs; no part of any id."""
    sampling: SamplingConfig
    """The samples that evaluations measure."""
    evaluation: EvaluationConfig
    """The metrics on samples."""
    analysis: AnalysisConfig
    """The images behind the measurements of autoencoders."""
    downstream: DownstreamConfig
    """The heads of Figure 4."""
    resources: dict[Rule, Resources] = Field(default={})
    """What a job of each stage asks for; `default` is for stages not named."""

    @property
    def teacher_grid(self) -> int:
        """Patch tokens along a side that latents are aligned with."""
        return self.latent_size // (self.latent.cells or 1)

    @property
    def latent_size(self) -> int:
        return self.data.resolution // self.latent.factor

    def resources_of(self, rule: str) -> Resources:
        """What a job of this rule asks for: its own entry, else the default one, else `Resources` as it stands."""
        return self.resources.get(rule) or self.resources.get("default") or Resources()

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        """Raises ValueError (one line) for the first rule that does not hold."""
        for rule in (
            _only_training_spans_nodes,
            _texts_can_be_printed,
            _folders_are_named,
            _resolution_fits,
            _autoencoder_fits,
            _one_way_to_unit_variance,
            _teachers_fit,
            _models_fit,
            _names_are_defined,
            _enough_images_for_figure_1,
        ):
            rule(self)
        return self


def _only_training_spans_nodes(scale: Scale) -> None:
    several = [stage.command for stage in STAGES if stage.several_nodes]
    for rule, asked in scale.resources.items():
        if asked.nodes > 1 and rule not in several:
            raise ValueError(f"resources.{rule}.nodes {asked.nodes}: only {' and '.join(several)} can use several nodes")


def _folders_are_named(scale: Scale) -> None:
    if not scale.pretrained:
        raise ValueError("pretrained: '' would be the current folder; name one, or leave pretrained out")


def _texts_can_be_printed(scale: Scale) -> None:
    texts = {"description": scale.description} | {f"milestones.{name}": name for name in scale.milestones}
    texts |= {"evaluation.reference": Path(scale.evaluation.reference or "").name}
    for key, text in texts.items():
        if wrong := unspelled(text):
            raise ValueError(f"{key}: {wrong}")


def _resolution_fits(scale: Scale) -> None:
    resolution, net = scale.data.resolution, scale.autoencoder.lpips.net
    if resolution % scale.latent.factor:
        raise ValueError(f"data.resolution {resolution} does not divide by latent.factor {scale.latent.factor}")
    if resolution < LPIPS_SMALLEST[net]:
        raise ValueError(f"data.resolution {resolution} is too small for LPIPS with {net}, which needs {LPIPS_SMALLEST[net]}")


def _autoencoder_fits(scale: Scale) -> None:
    autoencoder = scale.autoencoder
    blocks = len(autoencoder.block_out_channels)
    if 2 ** (blocks - 1) != scale.latent.factor:
        raise ValueError(
            f"autoencoder.block_out_channels has {blocks} entries, which downsamples by {2 ** (blocks - 1)}; "
            f"latent.factor is {scale.latent.factor}"
        )
    for channels in autoencoder.block_out_channels:
        if channels % autoencoder.norm_num_groups:
            raise ValueError(
                f"autoencoder.block_out_channels {channels} does not divide by norm_num_groups {autoencoder.norm_num_groups}"
            )


def _one_way_to_unit_variance(scale: Scale) -> None:
    if scale.latent.normalise and scale.autoencoder.unit_scale:
        raise ValueError(
            "autoencoder.unit_scale rescales latents by one factor, latent.normalise each channel by its own; leave out one of the two"
        )


def _teachers_fit(scale: Scale) -> None:
    if scale.latent_size % (scale.latent.cells or 1):
        raise ValueError(f"latent.cells {scale.latent.cells} does not divide the {scale.latent_size}-wide latents")
    for key, teacher in scale.teachers.items():
        if teacher.kind != "trained":
            continue
        grid = scale.data.resolution // teacher.patch
        if grid != scale.teacher_grid:
            cells = f" in groups of {scale.latent.cells} (latent.cells)" if scale.latent.cells else ""
            raise ValueError(
                f"teachers.{key}.patch {teacher.patch} gives a {grid}-wide grid; the latents are {scale.latent_size} wide{cells}"
            )
        if teacher.width % teacher.heads:
            raise ValueError(f"teachers.{key}.width {teacher.width} does not divide by heads {teacher.heads}")


def _models_fit(scale: Scale) -> None:
    for key, size in scale.models.items():
        if size.width % (2 * size.heads):
            raise ValueError(f"models.{key}.width {size.width} does not divide by 2 x heads {size.heads}")
        if size.repa_depth > size.depth:
            raise ValueError(f"models.{key}.repa_depth {size.repa_depth} is more than its depth {size.depth}")


def _names_are_defined(scale: Scale) -> None:
    for name, base in scale.bases.items():
        if base.kind == "alias" and (base.of not in scale.bases or scale.bases[base.of].kind == "alias"):
            raise ValueError(f"bases.{name}.of '{base.of}' is not a trained or pretrained base")
    if scale.repa.teacher not in scale.teachers:
        raise ValueError(f"repa.teacher '{scale.repa.teacher}' is not one of teachers ({', '.join(scale.teachers)})")


def _enough_images_for_figure_1(scale: Scale) -> None:
    """Of each class, as far as the scale says how many there are; and tokens for the cells that it averages over."""
    data, analysis = scale.data, scale.analysis
    side = data.resolution // scale.latent.factor
    if analysis.tsne_grid and analysis.tsne_grid > side:
        raise ValueError(
            f"analysis.tsne_grid: {analysis.tsne_grid} cells a side, but a latent has {side} tokens a side; take fewer"
        )
    if analysis.tsne_split or not data.expected_held_out or not data.expected_classes:
        return
    each = data.expected_held_out // data.expected_classes
    if each < analysis.tsne_images:
        raise ValueError(
            f"analysis.tsne_images: {analysis.tsne_images} of each class, but about {each} are held out (data.expected_held_out); "
            f"set analysis.tsne_split: train, or ask for fewer"
        )
