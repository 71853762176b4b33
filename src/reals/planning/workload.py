"""The real training tasks of an experiment, made from its specs alone: no artefact needs to exist.

What times a step, tells its memory or compares two devices runs these, and so the code that a stage runs. Sources are those
given, else stand-ins of the right shapes. Networks have random weights, published ones too (LPIPS, teachers): neither speed nor
memory depends on values.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from torch import nn

from reals import rng
from reals.data.dataset import Images
from reals.data.readers import CachedFeatures, Latents
from reals.experiment.artefact import Artefact
from reals.experiment.registry import Registry
from reals.experiment.specs import AutoencoderSpec, RunSpec, SamplesSpec, Spec, TeacherSpec, TrainedAutoencoderSpec
from reals.method import alignment
from reals.method.models import autoencoder as autoencoders
from reals.method.models import teacher as teachers
from reals.method.models.lpips import lpips_network
from reals.method.models.teacher import OnlineFeatures
from reals.method.models.transformer import Transformer, initialise
from reals.method.sampling import InPrecision, Sampling, sampling_of
from reals.planning.counts import counts
from reals.planning.networks import Networks
from reals.planning.stand_ins import FeaturesStandIn, ImagesStandIn, LatentsStandIn
from reals.training.processes import Processes
from reals.training.tasks.autoencoder import AutoencoderTask, align_networks
from reals.training.tasks.transformer import TransformerTask, checkpoint_blocks, network_config

if TYPE_CHECKING:  # diffusers is imported where it is used: it takes seconds
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL


@dataclass(frozen=True)
class Sources:
    """What a task reads where it is at hand; None: a stand-in."""

    images: Images | None = None
    held_out: Images | None = None
    latents: Latents | None = None
    features: CachedFeatures | None = None


STAND_INS = Sources()

Network = TypeVar("Network", bound=nn.Module)


class Maker(Protocol):
    """How a network comes to be: (what builds it, what draws its weights) -> it."""

    def __call__(self, build: Callable[[], Network], initialise: Callable[[Network], object]) -> Network: ...


def drawn(build: Callable[[], Network], initialise: Callable[[Network], object]) -> Network:
    """The network, its weights drawn. What wants no memory may build on torch's meta device and draw nothing."""
    network = build()
    initialise(network)
    return network


class Workload:
    """Makes the tasks of one experiment, in given processes: their device, precision, accumulation and compilation."""

    def __init__(self, registry: Registry, processes: Processes, sources: Sources = STAND_INS, make: Maker = drawn):
        self.registry, self.processes, self.sources, self.make = registry, processes, sources, make
        self.scale, self.counts = registry.experiment.scale, counts(registry)

    def transformer(self, run: Artefact[RunSpec], batch: int | None = None) -> TransformerTask:
        """The training of a run; ``batch`` in place of its own."""
        spec = _at(run.spec, batch)
        images = self.sources.images or self._images(self.counts.train)
        latents = self.sources.latents or LatentsStandIn(
            self.counts.train, spec.latent_channels, spec.latent_size, spec.scaling_factor
        )
        teacher = self._teacher(run, spec, spec.latent_size // spec.patch) if spec.repa is not None else None
        config = network_config(spec, self.counts.classes, teacher.dim if teacher is not None else None)
        weights = rng.generator(spec.seed, "transformer weights")
        model = self.make(lambda: Transformer(config), lambda network: initialise(network, weights))
        if self.scale.engine.checkpoint_blocks:
            checkpoint_blocks(model)
        online = images if isinstance(teacher, OnlineFeatures) else None
        return TransformerTask(spec, model.train(), latents, torch.from_numpy(images.labels), self.processes, teacher, online)

    def autoencoder(self, artefact: Artefact[AutoencoderSpec], batch: int | None = None) -> AutoencoderTask:
        """The training of an autoencoder that is trained here; ``batch`` in place of its own."""
        assert isinstance(artefact.spec, TrainedAutoencoderSpec), f"{artefact.name} is brought in and not trained"
        spec, config = _at(artefact.spec, batch), self.scale.autoencoder
        align = teacher = None
        if spec.align is not None:
            asked, teacher = spec.align, self._teacher(artefact, spec)
            dim, weights = teacher.dim, rng.generator(spec.seed, "align weights")
            align = self.make(lambda: align_networks(spec, asked, dim), lambda network: alignment.initialise(network, weights))
        lpips = self.make(lambda: lpips_network(spec.lpips.net, "random", None), _as_built)
        return AutoencoderTask(
            spec, self.vae(), align, teacher, lpips,
            self.sources.images or self._images(self.counts.train), self.sources.held_out or self._images(self.counts.held_out),
            self.processes, config.held_out_images, config.held_out_every,
        )  # fmt: skip

    def drawing(self, samples: Artefact[SamplesSpec], precision: str | None = None) -> tuple[InPrecision, Sampling]:
        """What draws these samples, on the device: the network in their precision (or another), and how."""
        run, device = samples.needed("run").spec, self.processes.device
        config = network_config(replace(run, repa=None), self.counts.classes, None)
        weights = rng.generator(run.seed, "transformer weights")
        model = self.make(lambda: Transformer(config), lambda network: initialise(network, weights))
        network = InPrecision(model.to(device).eval().requires_grad_(False), precision or samples.spec.precision or "fp32")
        if self.processes.compiled:
            network.compile()
        return network, sampling_of(samples.spec)

    def frozen_vae(self) -> "AutoencoderKL":
        """An autoencoder of the scale on the device, as encoding and decoding use it."""
        return autoencoders.channels_last(self.vae(), self.processes.device).eval().requires_grad_(False)

    def vae(self) -> "AutoencoderKL":
        """An autoencoder of the scale, on the CPU."""
        a = self.scale.autoencoder
        sizes = (self.scale.latent.channels, a.block_out_channels, a.layers_per_block, a.norm_num_groups)
        return self.make(lambda: autoencoders.build(self.scale.data.resolution, *sizes), _as_built)

    def _images(self, count: int) -> Images:
        return ImagesStandIn(count, self.scale.data.resolution, self.counts.classes)

    def _teacher(
        self, artefact: Artefact[Spec], spec: RunSpec | TrainedAutoencoderSpec, grid: int | None = None
    ) -> CachedFeatures | OnlineFeatures:
        """The teacher's features as the spec takes them: from their cache, or from the teacher itself at ``grid``."""
        teacher = artefact.teacher
        assert teacher is not None, f"{artefact.name} has no teacher"
        if spec.features is None:
            return OnlineFeatures(self.teacher(teacher), grid)
        if self.sources.features is not None:
            return self.sources.features
        side = 0 if self.scale.features == "cls" else self.scale.teacher_grid
        width = Networks(self.registry, self.counts).teacher_dim(teacher)
        return FeaturesStandIn(self.counts.train, 2 if self.scale.data.flip else 1, side, width)

    def teacher(self, artefact: Artefact[TeacherSpec]) -> teachers.Teacher:
        """A teacher with random weights, on the processes' device."""
        config = teachers.config_of(artefact.spec, self.counts.classes)
        return teachers.Teacher(config, self.make(lambda: teachers.build(config), _as_built).to(self.processes.device))


def _as_built(network: nn.Module) -> None:
    """Torch's, timm's or diffusers' own weights stay."""


TrainedSpec = TypeVar("TrainedSpec", RunSpec, TrainedAutoencoderSpec)


def _at(spec: TrainedSpec, batch: int | None) -> TrainedSpec:
    return spec if batch is None else replace(spec, batch=batch)
