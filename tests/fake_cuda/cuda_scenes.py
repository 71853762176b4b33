"""Every training step, sampler, encoder and head of the project on the device that is none: what each waits for and refuses.

``python cuda_scenes.py SHIM`` prints {scene: facts} as JSON, with SHIM, `shim.cpp` as a library, or without it what needs no gradient.
"""

import ctypes
import sys

if __name__ == "__main__" and len(sys.argv) > 1:
    ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)  # before torch, whose own symbols come second then

import json
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import small
import torch
from fake_cuda.cuda_device import CUDA, pretend, recorded
from torch import Tensor, nn

from reals.experiment.specs import RepaSpec, RunSpec
from reals.measure import latents, reconstruction
from reals.measure.extractor import extract
from reals.measure.extractors.inception import inception
from reals.measure.extractors.small_cnn import small_cnn_extractor
from reals.method import sampling
from reals.method.equivariance import AUTHORS
from reals.method.models import autoencoder as models
from reals.method.models import heads as networks
from reals.method.models import teacher as teachers
from reals.method.models.teacher import OnlineFeatures
from reals.method.models.transformer import FULL_SIZES, Transformer
from reals.method.sampling import Sampling
from reals.planning.stand_ins import FeaturesStandIn, ImagesStandIn, LatentsStandIn
from reals.training.batches import Ahead
from reals.training.processes import Processes
from reals.training.task import Task
from reals.training.tasks import head
from reals.training.tasks.autoencoder import AutoencoderTask, align_networks
from reals.training.tasks.classifier import ClassifierTask
from reals.training.tasks.transformer import TransformerTask, network_config

Step = Callable[[int], Any]
CLASSES, IMAGES, DIM = 10, 64, 16
VIT = teachers.TeacherConfig("", 4, 8, (0.5,) * 3, (0.5,) * 3, DIM, 2, 2, CLASSES)


def pixels() -> ImagesStandIn:
    return ImagesStandIn(IMAGES, 32, CLASSES)


def teacher() -> teachers.Teacher:
    return teachers.Teacher(VIT, teachers.build(VIT).to(CUDA))


def online(grid: int | None = None) -> OnlineFeatures:
    return OnlineFeatures(teacher(), grid)


def latents_of(spec: RunSpec) -> LatentsStandIn:
    return LatentsStandIn(IMAGES, spec.latent_channels, spec.latent_size)


def transformer(family: str, precision: str = "fp32", repa: str | None = None, **sizes: Any) -> TransformerTask:
    half = precision if precision in ("bf16", "fp16") else None
    aligned = RepaSpec(depth=1, hidden=8, coefficient=0.5, grad_clip=1.0, teacher_precision=half) if repa else None
    spec = replace(small.RUN, family=family, repa=aligned, **sizes)
    side = spec.latent_size // spec.patch
    source = {"cached": lambda: FeaturesStandIn(IMAGES, 2, side, DIM), "online": lambda: online(side), None: lambda: None}[repa]()
    model = Transformer(network_config(spec, CLASSES, DIM if repa else None)).train()
    labels = torch.arange(IMAGES) % CLASSES
    several = Processes(precision, deterministic=True)
    return TransformerTask(spec, model, latents_of(spec), labels, several, source, pixels() if repa == "online" else None)


def autoencoder(precision: str = "fp32", **changes: Any) -> AutoencoderTask:
    lpips = replace(small.AUTOENCODER.lpips, precision="bf16" if precision == "bf16" else None)
    spec = replace(small.AUTOENCODER, lpips=lpips, **changes)
    align = align_networks(spec, spec.align, DIM)
    several = Processes(precision, deterministic=True)
    return AutoencoderTask(spec, small.tiny().train(), align, online(), deepcopy(small.LPIPS), pixels(), pixels(), several, 4)


def classifier(network: nn.Module, inputs: Callable[[Tensor], Tensor], **settings: Any) -> ClassifierTask:
    return ClassifierTask(network.to(CUDA), inputs, pixels(), 10, 8, 1e-3, 0, True, **settings)


def settings(steps: int) -> head.HeadSettings:
    return head.HeadSettings(0, steps, 8, 1e-3, CUDA)


def labelled(kind: str, relative: bool = False) -> Step:
    config = SimpleNamespace(layout="voc" if kind == "segmentation" else "depth", classes=None, relative=relative)

    class Pairs:
        def __init__(self) -> None:
            self.config = config

        def __len__(self) -> int:
            return IMAGES

        def batch(self, indices: Any, size: int) -> tuple[np.ndarray, np.ndarray]:
            truth = np.ones((len(indices), size, size), np.int64 if kind == "segmentation" else np.float32)
            return np.zeros((len(indices), 3, size, size), np.uint8), truth

    network = teacher()

    def reader(x: Tensor) -> Tensor:
        return networks.as_map(network.features(x.float() / 255)[0])

    return lambda step: head.trained_on_labels(kind, Pairs(), reader, DIM, "teacher", 32, settings(1 + step))


def ink() -> Step:
    source = online()
    return lambda step: head.trained_on_ink(pixels(), source, 4, settings(1 + step))


SAMPLERS = {
    "sde": Sampling("sde", 6),
    "heun-sde": Sampling("heun-sde", 4),
    "ode": Sampling("ode", 6),
    "euler": Sampling("euler", 5),
    "ddpm": Sampling("ddpm", 6),
    "ddim": Sampling("ddim", 6, eta=0.5),
}
"""dopri5 chooses its steps by the error, and so reads it at each."""
GUIDED = {"": {}, ", guided": {"cfg": 1.5}, ", guided in an interval": {"cfg": 1.5, "interval": (0.0, 0.7), "cfg_channels": 3}}


def sampler(settings: Sampling, precision: str) -> Step:
    model = Transformer(network_config(small.RUN, CLASSES, None)).eval().requires_grad_(False).to(CUDA)
    network, y = sampling.InPrecision(model, precision), torch.zeros(4, dtype=torch.int64).to(CUDA)
    return torch.no_grad()(lambda step: sampling.draw(network, settings, 0, y, list(range(4)), CUDA))


def frozen_vae() -> Any:
    return models.channels_last(small.tiny(), CUDA).eval().requires_grad_(False)


def decoding() -> Step:
    vae = frozen_vae()
    z = torch.zeros(4, 4, 8, 8).to(CUDA)
    return lambda step: sampling.decode(vae, z, [0, 1, 2, 3], "samples")


def encoding() -> Step:
    vae = frozen_vae()
    return lambda step: latents.posterior_means(vae, pixels(), np.arange(8))


def features() -> Step:
    network = teacher()
    x = torch.zeros(4, 3, 32, 32).to(CUDA)
    return lambda step: network.features(x)


def consistency() -> Step:
    vae = frozen_vae()
    paper = SimpleNamespace(crop_scale=(0.5, 1.0), crop_ratio=(0.75, 1.33), flip_probability=0.5, blur_probability=0.5,
                            blur_sigma=(0.1, 2.0), blur_kernel_fraction=0.1, grayscale_probability=0.2)  # fmt: skip
    return lambda step: latents.consistency(vae, torch.zeros(4, 3, 32, 32, dtype=torch.uint8), paper, 0)


def small_extractor() -> Step:
    extractor = small_cnn_extractor(small.small_cnn().to(CUDA), "small")
    return lambda step: extract(extractor, [torch.zeros(4, 3, 32, 32, dtype=torch.uint8)])


def adm() -> Step:
    with tempfile.TemporaryDirectory() as folder:
        extractor = inception(small.random_inception_weights(Path(folder) / "inception.pth")).to(CUDA)
    return lambda step: extract(extractor, [torch.zeros(2, 3, 64, 64, dtype=torch.uint8)])


def reconstructions() -> Step:
    vae, extractor = frozen_vae(), small_cnn_extractor(small.small_cnn().to(CUDA), "small")
    perceptual = deepcopy(small.LPIPS).to(CUDA)
    return lambda step: reconstruction.reconstruction_scores(vae, pixels(), np.arange(8), perceptual, extractor, 0)


def sit_xl(precision: str) -> TransformerTask:
    """The step of the paper's largest network on one of eight GPUs."""
    width, depth, heads = FULL_SIZES["XL"]
    return transformer("SiT", precision, width=width, depth=depth, heads=heads, latent_channels=4, latent_size=32, batch=32)


AUTOENCODERS = [*product(("constant", "adaptive"), ("constant", "gradient"), ["fp32"]), ("adaptive", "gradient", "bf16")]
TRAINING: dict[str, Callable[[], Task]] = {
    "SiT": partial(transformer, "SiT"),
    "SiT bf16": partial(transformer, "SiT", "bf16"),
    "SiT fp16": partial(transformer, "SiT", "fp16"),
    "DiT": partial(transformer, "DiT"),
    "REPA, cached teacher": partial(transformer, "SiT", repa="cached"),
    "REPA, online teacher": partial(transformer, "SiT", repa="online"),
    "REPA, online teacher bf16": partial(transformer, "SiT", "bf16", repa="online"),
    **{
        f"autoencoder, {gan} GAN, {balance} balance{' bf16' if precision == 'bf16' else ''}": partial(
            autoencoder, precision, gan_weight=gan, align=replace(small.ALIGN, balance=balance)
        )
        for gan, balance, precision in AUTOENCODERS
    },
    # Its first step sees small images, its second one decodes small latents.
    "autoencoder, VA-VAE's loss, EQ-VAE's steps": partial(autoencoder, align=small.VF, equivariance=AUTHORS, seed=1),
    "classifier: teacher": lambda: classifier(teachers.build(VIT), models.to_input, crop_scale=(0.5, 1.0), patch_loss=0.5),
    "classifier: extractor": lambda: classifier(small.small_cnn(), lambda x: x),
}
# A head's training is one call: these train for one step, then for two.
HEADS: dict[str, Callable[[], Step]] = {
    "head: ink": ink,
    "head: segmentation": partial(labelled, "segmentation"),
    "head: depth": partial(labelled, "depth"),
    "head: relative depth": partial(labelled, "depth", relative=True),
}
SIZED: dict[str, Callable[[], Task]] = {"SiT-XL bf16": partial(sit_xl, "bf16")}
DRAWING: dict[str, Callable[[], Step]] = {
    **{
        f"sampler {name}{guided}": partial(sampler, replace(settings, **change), "fp32")
        for name, settings in SAMPLERS.items()
        for guided, change in GUIDED.items()
    },
    **{f"sampler {name} bf16": partial(sampler, SAMPLERS[name], "bf16") for name in ("sde", "ddpm")},
}
MEASURING: dict[str, Callable[[], Step]] = {
    "decoding": decoding,
    "encoding": encoding,
    "teacher's features": features,
    "extractor: small CNN": small_extractor,
    "extractor: Inception": adm,
    "semantic consistency": consistency,
    "reconstructions": reconstructions,
}


def spoilt(spoil: Callable[[Tensor], Tensor]) -> TransformerTask:
    """SiT's training with something wrong in its loss."""
    task = transformer("SiT")
    losses = task.losses

    def wrong(batch: Any) -> Any:
        right = losses(batch)
        return right._replace(total=spoil(right.total))

    task.losses = wrong
    return task


def a_cpu_tensor() -> TransformerTask:
    return spoilt(lambda loss: (loss * torch.ones(7)).mean())


def a_number_asked_for() -> TransformerTask:
    return spoilt(lambda loss: loss * max(loss.item(), 1.0))


def a_cross_entropy_of_maps() -> TransformerTask:
    logits, classes = torch.zeros(2, 3, 4, 4).to(CUDA).requires_grad_(), torch.zeros(2, 4, 4, dtype=torch.int64).to(CUDA)
    return spoilt(lambda loss: loss + nn.functional.cross_entropy(logits, classes))


def a_generator_on_the_cpu() -> TransformerTask:
    return spoilt(lambda loss: loss + torch.randn((), device=CUDA, generator=torch.Generator()))


def activations_kept() -> TransformerTask:
    """What every block gives, once more than its backward pass needs."""
    task, kept = transformer("SiT"), []
    for block in task.model.blocks:
        block.register_forward_hook(lambda module, given, output: kept.append(output.detach().clone()))
    return task


PLANTED: dict[str, Callable[[], Task]] = {
    make.__name__: make
    for make in (a_cpu_tensor, a_number_asked_for, a_cross_entropy_of_maps, a_generator_on_the_cpu, activations_kept)
}


def facts(make: Callable[[], Task | Step], whole: bool = False) -> dict:
    """Of the second step: the first one makes what is made once, such as the optimizer's state. ``whole``: the steps begin anew."""
    torch.use_deterministic_algorithms(True)
    made: Task | Step | None = None
    with recorded() as record:
        try:
            made = make()
            step = made if callable(made) else made.update
            step(0)
            once = Counter(record.waits) if whole else Counter()
            record.begin()
            step(1)
        except Exception as error:
            return {"error": "".join(traceback.format_exception(error, limit=-4))}
        finally:
            if isinstance(getattr(made, "batches", None), Ahead):
                made.batches.close()
        return {
            "error": None,
            "waits": record.waits - once,
            "refused": record.refused,
            "dtypes": record.dtypes,
            "peak": record.peak,
        }


def main(scenes: dict[str, Callable[[], Any]]) -> None:
    pretend()
    warnings.simplefilter("ignore")
    print(json.dumps({name: facts(make, name in HEADS) for name, make in scenes.items()}))


if __name__ == "__main__":
    forward = {**DRAWING, **MEASURING}
    main({**TRAINING, **HEADS, **SIZED, **PLANTED, **forward} if len(sys.argv) > 1 else forward)
