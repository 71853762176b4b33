"""What a job of each kind costs: FLOPs by kind of work, each in the precision that the job runs in, and bytes that stay on disk.

FLOPs are the networks'; reading images, drawing noise, statistics and figures are not counted.
"""

from collections.abc import Callable, Mapping

from reals.experiment.artefact import Artefact
from reals.experiment.specs import (
    AnalysisSpec,
    AutoencoderSpec,
    DataSpec,
    DownstreamSpec,
    EvaluationSpec,
    ExtractorSpec,
    FeaturesSpec,
    LatentsSpec,
    PretrainedAutoencoderSpec,
    PretrainedTeacherSpec,
    ReferenceSpec,
    RunSpec,
    SamplesSpec,
    TeacherSpec,
    TrainedExtractorSpec,
)
from reals.planning import flops
from reals.planning.network_calls import network_calls
from reals.planning.networks import Networks, vit_of
from reals.planning.rates import TEACHER, Kind

Priced = tuple[Mapping[Kind, int], int]
"""FLOPs by kind of work, bytes."""

FP32 = "fp32"  # of what trains teachers and feature extractors, and of what measures: no figure depends on another precision

STATES = 2  # rolling training states that are kept, each the model, its EMA and Adam's two moments


def data(networks: Networks, artefact: Artefact[DataSpec]) -> Priced:
    pixels = 3 * networks.scale.data.resolution**2
    images = networks.counts.train + networks.counts.held_out
    stored = networks.scale.data.storage == "array" or networks.scale.data.keep_crops
    return {}, images * pixels if stored else 100 * images


def teacher(networks: Networks, artefact: Artefact[TeacherSpec]) -> Priced:
    grid, spec = networks.scale.teacher_grid, artefact.spec
    if isinstance(spec, PretrainedTeacherSpec):
        vit = vit_of(spec.model)
        return {}, 4 * 12 * vit.width**2 * vit.depth
    vit = flops.VitSizes(spec.width, spec.depth, spec.patch)
    work = flops.TRAINED * flops.vit_flops(vit, grid, networks.counts.classes) * spec.steps * spec.batch
    return {Kind("transformer", FP32): work}, 4 * 12 * vit.width**2 * vit.depth * (1 + STATES * 3)


def extractor(networks: Networks, artefact: Artefact[ExtractorSpec]) -> Priced:
    spec = artefact.spec
    if not isinstance(spec, TrainedExtractorSpec):
        return {}, 0
    return {Kind("autoencoder", FP32): flops.TRAINED * networks.extractor_flops(artefact) * spec.steps * spec.batch}, 0


def features(networks: Networks, artefact: Artefact[FeaturesSpec]) -> Priced:
    teacher, grid = artefact.needed("teacher"), networks.scale.teacher_grid
    images = networks.counts.train * (2 if networks.scale.data.flip else 1)
    work = {Kind(TEACHER, artefact.spec.compute or FP32): images * networks.teacher_flops(teacher, grid)}
    tokens = 1 if networks.scale.features == "cls" else grid**2 + 1
    return work, images * tokens * networks.teacher_dim(teacher) * 2


def autoencoder(networks: Networks, artefact: Artefact[AutoencoderSpec]) -> Priced:
    weights = 4 * flops.vae_parameters(networks.vae)
    spec = artefact.spec
    if isinstance(spec, PretrainedAutoencoderSpec):
        return {}, weights
    work = networks.autoencoder_step_flops(spec, artefact.teacher) * spec.steps * spec.batch
    return {Kind("autoencoder", spec.precision or FP32): work}, weights * (1 + 3 * STATES)


def fine_tuning(networks: Networks, artefact: Artefact[AutoencoderSpec]) -> int:
    """FLOPs that an autoencoder's fine-tuning adds to what it starts from, a cache of the teacher's features included; a base's: 0."""
    spec = artefact.spec
    if isinstance(spec, PretrainedAutoencoderSpec) or spec.init is None:
        return 0
    parts = [autoencoder(networks, artefact)]
    if spec.features is not None:
        parts.append(features(networks, artefact.needed("features")))
    return sum(sum(work.values()) for work, _ in parts)


def latents(networks: Networks, artefact: Artefact[LatentsSpec]) -> Priced:
    images = networks.counts.train * (1 if artefact.spec.mirrored is False else 2)
    work = {Kind("encoding", artefact.spec.compute or FP32): images * flops.vae_encoder_flops(networks.vae)}
    return work, images * 2 * networks.scale.latent.channels * networks.scale.latent_size**2 * 2


def run(networks: Networks, artefact: Artefact[RunSpec], step: int) -> Priced:
    row, sizes = networks.registry.experiment.runs[artefact.name], networks.transformer(artefact)
    before = max((earlier for earlier in networks.registry.milestones(artefact) if earlier < step), default=0)
    each = flops.TRAINED * flops.transformer_flops(sizes)
    teacher = artefact.teacher
    if teacher is not None and artefact.spec.teacher is not None:  # itself, and not its cache
        each += flops.FROZEN * networks.teacher_flops(teacher, sizes.latent_size // sizes.patch)
    weights = 4 * flops.transformer_parameters(sizes, networks.counts.classes)
    kind = Kind(f"transformer {row.size}", artefact.spec.precision or FP32)
    # The EMA for use and the state to go on from; the rolling states are charged to the first milestone.
    work = each * (step - before) * networks.scale.transformer.batch
    return {kind: work}, weights * (1 + 4 + (0 if before else STATES * 4))


def samples(networks: Networks, artefact: Artefact[SamplesSpec]) -> Priced:
    spec, run, precision = artefact.spec, artefact.needed("run"), artefact.spec.precision or FP32
    passes = network_calls(spec)
    size = networks.registry.experiment.runs[run.name].size
    work = {
        Kind(f"sampling {size}", precision): spec.n * passes * flops.without_projector(networks.transformer(run)),
        Kind("encoding", precision): spec.n * flops.vae_decoder_flops(networks.vae),
    }
    return work, spec.n * 3 * networks.scale.data.resolution**2


def reference(networks: Networks, artefact: Artefact[ReferenceSpec]) -> Priced:
    spec, few = artefact.spec, min(networks.scale.evaluation.pr_reference, networks.counts.train)
    images = few if spec.source is not None or spec.chosen else networks.counts.train
    return {Kind("encoding", FP32): images * networks.extractor_flops(artefact.needed("extractor"))}, 8 * 2 * 2048**2


def evaluation(networks: Networks, artefact: Artefact[EvaluationSpec]) -> Priced:
    extractors = (need.needed("extractor") for need in artefact.needs if need.kind == "reference")
    each = sum(networks.extractor_flops(extractor) for extractor in extractors)
    return {Kind("encoding", FP32): artefact.needed("samples").spec.n * each}, 0


def analysis(networks: Networks, artefact: Artefact[AnalysisSpec]) -> Priced:
    config = networks.scale.analysis
    images, probe = min(config.images, networks.counts.held_out), min(config.probe_images, networks.counts.train)
    again = min(config.reconstruction_images or config.images, networks.counts.held_out)
    # Reconstruction; averaged latents, their std, and two views of each of the five augmentations; probes; t-SNE.
    shown = networks.counts.train if config.tsne_split else networks.counts.held_out
    classes = min(config.tsne_classes, networks.counts.classes)
    encoded = again + images * (2 + 10) + probe + classes * min(config.tsne_images, shown // networks.counts.classes)
    work = (
        encoded * flops.vae_encoder_flops(networks.vae)
        + 2 * again * flops.vae_decoder_flops(networks.vae)
        + 4 * again * flops.lpips_flops(networks.scale.autoencoder.lpips.net, networks.scale.data.resolution)
        + 3 * again * networks.extractor_flops()
    )
    return {Kind("encoding", FP32): work}, 0


def downstream(networks: Networks, artefact: Artefact[DownstreamSpec]) -> Priced:
    spec, teacher = artefact.spec, artefact.teacher
    trained, images = spec.steps * spec.batch, 0
    if spec.target == "ink":
        images = min(spec.held_out_images, networks.counts.held_out) + (trained if spec.teacher is not None else 0)
    elif spec.target == "labelled":  # held-out pairs are not counted: how many there are is known to their folder alone
        images = trained * sum(labels is not None for labels in (spec.segmentation, spec.depth))
    work = images * networks.teacher_flops(teacher, networks.scale.teacher_grid) if images and teacher is not None else 0
    return {Kind(TEACHER, FP32): work}, 0


PRICES: dict[str, Callable[..., Priced]] = {
    "data": data,
    "teacher": teacher,
    "extractor": extractor,
    "features": features,
    "autoencoder": autoencoder,
    "latents": latents,
    "run": run,
    "samples": samples,
    "reference": reference,
    "evaluation": evaluation,
    "analysis": analysis,
    "downstream": downstream,
}
"""Kind of artefact -> its price, given the networks, the artefact and, of a run, the step."""
