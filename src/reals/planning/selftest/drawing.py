"""What is drawn and measured by networks that are trained: samplers, decoder, encoder, feature extractors, metrics; as on a CPU."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reals import rng
from reals.experiment.sampler_table import SAMPLERS, SamplerName
from reals.measure.extractor import FIELDS, Extractor, extract
from reals.measure.extractors.small_cnn import small_cnn_extractor
from reals.measure.metrics.generation import generation_metrics, reference_of
from reals.measure.reconstruction import reconstruction_scores
from reals.method import precision as precisions
from reals.method.models import autoencoder as autoencoders
from reals.method.models.lpips import lpips_network
from reals.method.sampling import Sampling, draw
from reals.planning.selftest import device as machine
from reals.planning.selftest.agreement import Leaves, distance, leaves, within
from reals.planning.selftest.outcome import Fault
from reals.planning.selftest.tiny import Tiny

CPU = torch.device("cpu")
DRAWN = 4  # samples
EVALUATIONS = 8
GUIDANCE = 1.5
IMAGES = 32

ALLOWED = {"fp32": 1e-4, "tf32": 1e-2, "bf16": 5e-2, "fp16": 1e-2}
"""How far a network's output, and what a sampler makes of it, may be from a CPU's in float32, as a share of its size."""
SOLVER = 1e-2  # of dopri5: its steps follow errors, and rounding may turn one that is at its tolerance (1e-3)
SCORES = 1e-2  # of metrics of the images that a decoder gave: a byte may round to its neighbour


@dataclass(frozen=True)
class Drawing:
    """What networks give on ``device`` beside what they give on the CPU."""

    tiny: Tiny
    device: torch.device

    def sampler(self, name: SamplerName) -> str:
        """Samples of a few steps with guidance."""
        model, solver = self.tiny.transformer(SAMPLERS[name].family), SAMPLERS[name].times is None
        sampling = Sampling(name, EVALUATIONS, cfg=GUIDANCE, eta=0.5)
        y = torch.arange(DRAWN) % self.tiny.classes

        @torch.no_grad()
        def drawn(device: torch.device) -> Tensor:
            return draw(model.to(device), sampling, 0, y.to(device), list(range(DRAWN)), device)

        allowed = {"fp32": SOLVER} if solver else ALLOWED
        return f"{'' if solver else f'{EVALUATIONS} evaluations, '}{self._beside_cpu(drawn, allowed)}"

    def encoder(self) -> str:
        """Moments of images."""
        x = autoencoders.to_input(torch.from_numpy(self.tiny.images().batch(np.arange(IMAGES))))
        vae = self.tiny.vae()

        @torch.no_grad()
        def encoded(device: torch.device) -> Tensor:
            return torch.cat(autoencoders.moments(autoencoders.channels_last(vae, device), x.to(device)))

        return self._beside_cpu(encoded)

    def decoder(self) -> str:
        """Images of latents."""
        vae = self.tiny.vae()
        side = self.tiny.registry.experiment.scale.latent_size
        z = torch.randn(DRAWN, vae.config["latent_channels"], side, side, generator=rng.generator(0, "selftest latents"))

        @torch.no_grad()
        def decoded(device: torch.device) -> Tensor:
            return autoencoders.channels_last(vae, device).decode(z.to(device)).sample

        return self._beside_cpu(decoded)

    def _beside_cpu(self, made: Callable[[torch.device], Tensor], allowed: dict[str, float] = ALLOWED) -> str:
        """The distance of ``made`` on the device in each precision from the CPU's float32."""

        def at(device: torch.device, precision: str) -> Tensor:
            with machine.deterministic(False), precisions.running(device, precision):  # as in their stages
                values = made(device).to("cpu", torch.float64)
            if not torch.isfinite(values).all():
                raise Fault(f"{precision}: {int((~torch.isfinite(values)).sum())} of {values.numel()} values are not finite")
            return values

        wanted = at(CPU, "fp32")
        if self.device.type == "cpu":
            allowed = {p: value for p, value in allowed.items() if p in ("bf16", "fp16")}
            if not allowed:
                return "finite (no GPU to compare the CPU with)"
        found = {p: within(distance(at(self.device, p), wanted), value, p) for p, value in allowed.items()}
        where = "off the CPU's fp32" if self.device.type != "cpu" else "off fp32 (no GPU to compare the CPU with)"
        return ", ".join(f"{p} {value:.0e}" for p, value in found.items()) + f" {where}"

    def extractors(self) -> str:
        """Features of the teacher and of the small feature extractor."""
        pixels = torch.from_numpy(self.tiny.images().batch(np.arange(IMAGES)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.key(0, "selftest teacher"))
            teacher = self.tiny.teacher()
        cnn = self._cnn()

        def features(device: torch.device) -> Leaves:
            teacher.network.to(device)
            found = extract(cnn.to(device), [pixels])
            ours = {field: getattr(found, field) for field in FIELDS}
            return leaves({"teacher": teacher.features(pixels.to(device).float() / 255), "extractor": ours})

        return self._same(features, ALLOWED["fp32"])

    def metrics(self) -> str:
        """Scores of reconstructions, and the metrics of generated images."""
        images, vae, cnn = self.tiny.images(), self.tiny.vae(), self._cnn()
        lpips = lpips_network("alex", "random", None)
        reference = reference_of(extract(cnn.to(CPU), [torch.from_numpy(images.batch(np.arange(IMAGES, 2 * IMAGES)))]))

        def scores(device: torch.device) -> Leaves:
            here = cnn.to(device)
            found = reconstruction_scores(
                autoencoders.channels_last(vae, device), images, np.arange(IMAGES), lpips.to(device), here, 0
            )
            samples = extract(here, [torch.from_numpy(images.batch(np.arange(IMAGES)))])
            return leaves(found | generation_metrics(samples, reference, pr_reference=IMAGES, kid_subset_size=IMAGES // 2))

        return self._same(scores, SCORES)

    def _cnn(self) -> Extractor:
        return small_cnn_extractor(self.tiny.cnn(), "selftest")

    def _same(self, made: Callable[[torch.device], Leaves], allowed: float) -> str:
        with machine.deterministic(False), precisions.running(self.device, "fp32"):
            wanted = made(CPU)
            if self.device.type == "cpu":
                return finite(wanted)
            return f"{furthest(made(self.device), wanted, allowed):.0e} off the CPU's"


def furthest(got: Leaves, wanted: Leaves, allowed: float) -> float:
    """The largest distance of a tensor; Fault where it is more than ``allowed``."""
    return max(within(distance(got[name], value), allowed, name) for name, value in wanted.items())


def finite(values: Leaves) -> str:
    """That all are finite; Fault names the first that is not."""
    for name, value in values.items():
        if not torch.isfinite(value).all():
            raise Fault(f"{name} is not finite")
    return f"{', '.join(dict.fromkeys(name.split('.')[0] for name in values))}: finite (no GPU to compare the CPU with)"
