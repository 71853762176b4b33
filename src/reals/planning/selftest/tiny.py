"""The networks and training tasks of every stage at the smoke scale's sizes: fixed weights, stand-in data, any device and precision."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from reals import rng
from reals.data.labelled import IGNORE, Pairs, classes
from reals.experiment.artefact import Artefact
from reals.experiment.datasets import LabelsConfig
from reals.experiment.registry import Registry
from reals.experiment.specs import AutoencoderSpec, RunSpec, TrainedAutoencoderSpec, TrainedExtractorSpec, TrainedTeacherSpec
from reals.measure.extractors.small_cnn import SmallCNN, SmallCNNConfig, initialise_small_cnn
from reals.method.models import autoencoder as autoencoders
from reals.method.models import teacher as teachers
from reals.method.models.heads import as_map
from reals.method.models.teacher import OnlineFeatures
from reals.method.models.transformer import Transformer, initialise
from reals.planning.counts import counts
from reals.planning.stand_ins import ImagesStandIn
from reals.planning.workload import Workload
from reals.training.processes import Processes
from reals.training.task import Task
from reals.training.tasks.classifier import ClassifierTask
from reals.training.tasks.head import HeadSettings, trained_on_ink, trained_on_labels
from reals.training.tasks.transformer import TransformerTask, network_config

if TYPE_CHECKING:  # diffusers is imported where it is used: it takes seconds
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

STIRRED = 0.1  # std of what is added to a fresh transformer's weights
EPSILON = 1e-3  # of AdamW here; its own makes of rounding in a gradient near 0 a step as long as any, of either sign


@dataclass(frozen=True)
class Tiny:
    """The smallest of each kind of network and task that a scale has; everything is a function of the arguments alone."""

    registry: Registry

    @property
    def classes(self) -> int:
        return counts(self.registry).classes

    @property
    def resolution(self) -> int:
        return self.registry.experiment.scale.data.resolution

    def images(self, count: int = 64) -> ImagesStandIn:
        return ImagesStandIn(count, self.resolution, self.classes)

    def run(self, family: str) -> Artefact[RunSpec]:
        """The first run of SiT, DiT or REPA."""
        return next(
            run
            for run in self.registry.runs.values()
            if (run.spec.repa is not None) == (family == "REPA")
            and run.spec.family in (family, "SiT" if family == "REPA" else "")
        )

    def aligned(self) -> Artefact[AutoencoderSpec]:
        """The first autoencoder that is fine-tuned with patches and cls."""
        return next(
            artefact
            for artefact in self.registry.autoencoders.values()
            if isinstance(artefact.spec, TrainedAutoencoderSpec) and (align := artefact.spec.align) and align.patch and align.cls
        )

    def task(self, stage: str, processes: Processes) -> Task:
        """The training task of one of `STAGES`, with optimizers whose steps rounding does not turn round."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.key(0, f"selftest {stage}"))
            task = STAGES[stage](self, processes)
        for part in vars(task).values():
            if isinstance(part, torch.optim.Optimizer):
                for group in part.param_groups:
                    group["eps"] = EPSILON
        return task

    def transformer_task(self, family: str, processes: Processes) -> TransformerTask:
        run = self.run(family)
        online = replace(run, spec=replace(run.spec, features=None))  # REPA's teacher runs along, as at the papers' scale
        task = Workload(self.registry, processes).transformer(online)
        stir(task.model)
        for name, value in task.model.state_dict().items():
            task.ema[name].copy_(value)
        return task

    def autoencoder_task(self, processes: Processes) -> Task:
        """With every term of Eq. 5 from the first step on, and a teacher that runs along."""
        artefact = self.aligned()
        assert isinstance(artefact.spec, TrainedAutoencoderSpec)
        spec = replace(artefact.spec, gan=replace(artefact.spec.gan, start=0, ramp=0), features=None)
        return Workload(self.registry, processes).autoencoder(replace(artefact, spec=spec))

    def teacher_task(self, processes: Processes) -> Task:
        spec = self.registry.teachers["large"].spec
        assert isinstance(spec, TrainedTeacherSpec)
        network = self.teacher().network.requires_grad_(True).to(processes.device)
        return ClassifierTask(
            network, autoencoders.to_input, self.images(), spec.steps, spec.batch, spec.lr, spec.seed, spec.flip,
            spec.crop_scale or (0.5, 1.0), spec.patch_loss or 1.0,
        )  # fmt: skip

    def extractor_task(self, processes: Processes) -> Task:
        spec = self.registry.extractor.spec
        assert isinstance(spec, TrainedExtractorSpec)
        network = self.cnn().train().requires_grad_(True).to(processes.device).to(memory_format=torch.channels_last)
        return ClassifierTask(network, lambda x: x, self.images(), spec.steps, spec.batch, spec.lr, spec.seed, spec.flip)

    def teacher(self) -> teachers.Teacher:
        """The larger teacher, untrained."""
        config = teachers.config_of(self.registry.teachers["large"].spec, self.classes)
        network = teachers.build(config)
        teachers.initialise_small_vit(network)
        return teachers.Teacher(config, network)

    def cnn(self) -> SmallCNN:
        """The small feature extractor."""
        spec = self.registry.extractor.spec
        assert isinstance(spec, TrainedExtractorSpec)
        network = SmallCNN(SmallCNNConfig(self.classes, self.resolution, spec.width, spec.blocks or 1))
        initialise_small_cnn(network, rng.generator(spec.seed, "extractor weights"))
        return network.eval().requires_grad_(False)

    def transformer(self, family: str) -> Transformer:
        """A SiT or DiT that is ready to sample."""
        spec = self.run(family).spec
        model = Transformer(network_config(spec, self.classes, None))
        initialise(model, rng.generator(spec.seed, "transformer weights"))
        stir(model)
        return model.eval().requires_grad_(False)

    def vae(self) -> "AutoencoderKL":
        spec = self.aligned().spec
        assert isinstance(spec, TrainedAutoencoderSpec)
        vae = autoencoders.build(self.resolution, spec.latent_channels, spec.block_out_channels,
                                 spec.layers_per_block, spec.norm_num_groups)  # fmt: skip
        autoencoders.initialise(vae, 0)
        return vae.eval().requires_grad_(False)


def heads(tiny: "Tiny", device: torch.device, steps: int) -> dict[str, nn.Module]:
    """Every head of the downstream stage after so many steps on a teacher's features."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.key(0, "selftest heads"))
        network = tiny.teacher()
    network.network.to(device)
    settings = HeadSettings(seed=0, steps=steps, batch=8, lr=tiny.registry.experiment.scale.downstream.lr, device=device)

    def reader(pixels: Tensor) -> Tensor:
        return as_map(network.features(pixels.float() / 255)[0])

    def on_labels(kind: str, layout: Literal["voc", "depth"]) -> nn.Module:
        return trained_on_labels(kind, LabelsStandIn.of(layout), reader, network.dim, "teacher", tiny.resolution, settings)

    factor = tiny.registry.experiment.scale.latent.factor
    return {
        "ink": trained_on_ink(tiny.images(), OnlineFeatures(network), factor, settings),
        "segmentation": on_labels("segmentation", "voc"),
        "depth": on_labels("depth", "depth"),
    }


class LabelsStandIn(Pairs):
    """Random images with random masks, some pixels without a class, or depths."""

    @classmethod
    def of(cls, layout: Literal["voc", "depth"], count: int = 32) -> "LabelsStandIn":
        return cls(LabelsConfig(name="none", layout=layout, path="none"), [Path()] * count, [Path()] * count)

    def batch(self, indices: Iterable[int], size: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = [rng.generator(0, "selftest labels", i) for i in indices]
        images = torch.stack([torch.randint(256, (3, size, size), generator=g, dtype=torch.uint8) for g in drawn])
        if self.config.layout == "depth":
            return images.numpy(), torch.stack([torch.rand(size, size, generator=g) for g in drawn]).numpy()
        masks = torch.stack([torch.randint(classes(self.config) + 1, (size, size), generator=g) for g in drawn])
        return images.numpy(), masks.masked_fill(masks == classes(self.config), IGNORE).numpy()


STAGES: dict[str, Callable[[Tiny, Processes], Task]] = {
    "SiT": lambda tiny, processes: tiny.transformer_task("SiT", processes),
    "DiT": lambda tiny, processes: tiny.transformer_task("DiT", processes),
    "REPA": lambda tiny, processes: tiny.transformer_task("REPA", processes),
    "autoencoder": Tiny.autoencoder_task,
    "teacher": Tiny.teacher_task,
    "extractor": Tiny.extractor_task,
}
"""The training tasks that run in `loop.train`."""


@torch.no_grad()
def stir(model: Transformer) -> None:
    """Moves the weights to where they may be later in training: a fresh transformer gives 0 whatever it computes."""
    generator = rng.generator(0, "stirred")
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_((STIRRED * torch.randn(parameter.shape, generator=generator)).to(parameter.device))
