"""Drawing images: settings, labels, noise by sample index, sampling, decoding. What the sample stage and command share."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, assert_never

import numpy as np
import torch
from torch import Tensor, nn

from reals import rng
from reals.experiment.sampler_table import LEAST_OF_HEUN, SAMPLERS, SDE_SAMPLERS, PathName, Sampler, SamplerName, samplers_of
from reals.experiment.specs import SamplesSpec
from reals.method import ddpm, guidance, paths, samplers
from reals.method import precision as precisions
from reals.method.models.autoencoder import to_uint8
from reals.method.models.transformer import Transformer, TransformerConfig
from reals.method.objectives import Network

if TYPE_CHECKING:  # diffusers is imported where it is used: it takes seconds
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL


@dataclass(frozen=True)
class Sampling:
    """How latents are drawn; the defaults are those of SiT's published numbers.

    `sampler` says what `steps` means (`sampler_table.SAMPLERS`, whose `evaluations` counts network evaluations for one image;
    dopri5 ignores `steps`). `cfg` to `interval_time` are guidance (`guidance.guided`), `form` to `last_size` are the SDE
    samplers' (`samplers.euler_maruyama`), `path` is that of a SiT, `eta` is DDIM's.
    """

    sampler: SamplerName = "sde"
    steps: int = 250
    cfg: float = 1.0
    cfg_channels: int | str = "all"
    interval: tuple[float, float] = (0.0, 1.0)
    interval_time: str = "noise"
    form: str = "sigma"
    norm: float = 1.0
    last: str = "mean"
    last_size: float = 0.04
    path: PathName = "linear"
    eta: float = 0.0

    def __post_init__(self) -> None:
        for what, value, known in (("sampler", self.sampler, tuple(SAMPLERS)), ("path", self.path, tuple(paths.PATHS))):
            if value not in known:
                raise ValueError(f"{what}: got {value!r}, expected one of {', '.join(known)}")

    @property
    def facts(self) -> Sampler:
        """What is known of its sampler by name."""
        return SAMPLERS[self.sampler]

    @property
    def diffuses(self) -> bool:
        return self.facts.family == "DiT"

    @property
    def end(self) -> float:
        """The time up to which samples are carried; 1, the data, but for solvers without a last step on the vp path."""
        return 1.0 if self.facts.sde and self.last_size else paths.last_sampling_time(paths.PATHS[self.path])

    @property
    def evaluations(self) -> int | None:
        """How often the network is evaluated for one image (twice where guided, in one call); None where it is not fixed."""
        return self.facts.evaluations(self.steps)

    @property
    def described(self) -> str:
        """The sampler and all its settings but guidance, for a reader."""
        text = self.facts.printed
        if "eta" in self.facts.settings:
            text += f", eta {self.eta:g}"
        if self.diffuses:
            text += ", respaced"
        if self.facts.sde:
            factor = "" if self.norm == 1 else f" times {self.norm:g}"
            text += f", {self.form} form{factor}, last step {self.last}" + ("" if self.last == "none" else f" {self.last_size:g}")
        if self.path != "linear":
            text += f", {self.path} path" + ("" if self.end == 1 else f" up to t = {self.end:g}")
        return f"{text}, " + (
            "as many evaluations as it takes" if self.evaluations is None else f"{self.evaluations} evaluations"
        )

    def check(self, family: str, config: TransformerConfig) -> None:
        """Raises ValueError (one line) for settings that cannot work, before anything expensive: a rehearsal on one number."""
        if self.sampler not in samplers_of(family):
            raise ValueError(f"sampler: got {self.sampler!r}; a {family} network takes {', '.join(samplers_of(family))}")
        if self.facts.even and self.steps % 2:
            raise ValueError(
                f"sampler {self.sampler}: got {self.steps} evaluations, expected an even number (Heun needs two a step)"
            )
        if self.facts.even and self.steps < LEAST_OF_HEUN:
            raise ValueError(
                f"sampler {self.sampler}: got {self.steps} evaluations, expected at least {LEAST_OF_HEUN}: two steps of two"
            )
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta: got {self.eta}, expected 0 (no noise) to 1 (as DDPM)")
        if not math.isfinite(self.cfg):
            raise ValueError(f"guidance scale: got {self.cfg}, expected a finite number")
        if self.sampler == "ddpm" and not config.learn_sigma:
            raise ValueError("sampler ddpm: this DiT has no variance channels; use ddim")
        if self.cfg != 1 and not config.label_dropout:
            raise ValueError(
                f"guidance scale {self.cfg}: the network has no null class, as it was trained without label dropout; use 1"
            )
        self.field(lambda x, t, y: x, torch.zeros(1, dtype=torch.int64), null=0)
        if self.facts.times is not None:
            zero = torch.zeros(1, 1, 1, 1)
            self.integrate(lambda x, t: torch.zeros(1, 2, 1, 1) if self.diffuses else x, zero, lambda k: zero)

    def field(self, model: Network, y: Tensor, null: int) -> guidance.Field:
        """The guided field of the network for the classes y [B]; `null` is the null class."""
        guided = guidance.guided_noise if self.diffuses else guidance.guided
        return guided(
            model, y, self.cfg, null=null, interval=self.interval, interval_time=self.interval_time, channels=self.cfg_channels
        )

    def integrate(
        self,
        field: guidance.Field,
        x: Tensor,
        noise_at: samplers.NoiseAt,
        progress: samplers.Progress | None = None,
        start: float = 0.0,
    ) -> Tensor:
        """x [B, C, h, w], noise, carried along the field to data; from time `start` by the SDE samplers, ValueError by others."""
        if start and not self.facts.sde:
            raise ValueError(
                f"sampler {self.sampler}: starts from noise alone; to start at t = {start:g} take {' or '.join(SDE_SAMPLERS)}"
            )
        match self.sampler:
            case "sde" | "heun-sde":
                sampler = samplers.euler_maruyama if self.sampler == "sde" else samplers.heun_sde
                return sampler(
                    field, x, self.steps, noise_at, form=self.form, norm=self.norm, last=self.last, last_size=self.last_size,
                    path=paths.PATHS[self.path], start=start, progress=progress,
                )  # fmt: skip
            case "ode":
                return samplers.heun(field, x, self.steps // 2, self.end, progress)
            case "euler":
                return samplers.euler(field, x, self.steps, self.end, progress)
            case "dopri5":
                return samplers.dopri5(field, x, self.end)
            case "ddpm":
                return samplers.ddpm_ancestral(field, x, self._schedule, noise_at, progress=progress)
            case "ddim":
                return samplers.ddim(field, x, self._schedule, self.eta, noise_at, progress=progress)
        assert_never(self.sampler)

    @property
    def _schedule(self) -> ddpm.Schedule:
        return ddpm.respace(ddpm.linear_schedule(), self.steps)


def sampling_of(spec: SamplesSpec) -> Sampling:
    """The settings that samples are drawn with; where the spec states none they are the defaults."""
    settings: dict[str, Any] = {
        "sampler": spec.sampler,
        "cfg": spec.cfg,
        "cfg_channels": 3 if spec.cfg_channels == "3" else "all",
        "interval": spec.interval or (0.0, 1.0),
        "interval_time": spec.interval_time or "noise",
        "steps": spec.steps,
        "eta": spec.eta,
        "path": spec.interpolant,
    }
    if spec.sde is not None:
        settings |= {
            "form": spec.sde.diffusion_form,
            "norm": spec.sde.diffusion_norm,
            "last": spec.sde.last_step,
            "last_size": spec.sde.last_step_size,
        }
    return Sampling(**{key: value for key, value in settings.items() if value is not None})


class InPrecision(nn.Module):
    """The network with its products in fp32, tf32 or bf16 and everything else (residual stream, norms, state) in float32.

    bf16 gives the same numbers as autocast on float32 weights; they are cast here once, in place, and not at each call.
    """

    def __init__(self, model: Transformer, precision: str):
        super().__init__()
        precisions.check(precision)
        self.model, self.config, self.precision = model, model.config, precision
        if precision == "bf16":
            for module in model.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    module.to(torch.bfloat16)

    def compile(self, **options: Any) -> None:
        self.model.compile(**options)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        with precisions.running(x.device, self.precision):
            return self.model(x, t, y).to(x.dtype)


def random_labels(seed: int, indices: Iterable[int], classes: int) -> np.ndarray:
    """The classes of samples `indices`, int64, each drawn uniformly by (seed, index), as DiT and SiT draw them."""
    return np.array([int(torch.randint(classes, (), generator=rng.generator(seed, "label", i))) for i in indices])


def shard_range(n: int, shard: int, shards: int) -> range:
    """Sample indices of one shard: contiguous, sizes differing by at most one."""
    return range(n * shard // shards, n * (shard + 1) // shards)


def draw(
    model: Transformer | InPrecision,
    sampling: Sampling,
    seed: int,
    y: Tensor,
    indices: list[int],
    device: torch.device,
    progress: samplers.Progress | None = None,
) -> Tensor:
    """Scaled latents [B, C, h, w] of the samples `indices` with classes y [B]; each depends on (seed, index) alone."""
    if sampling.facts.times is None and len(indices) > 1:
        # One by one: its steps follow the error over the whole batch, so company would change the images.
        alone = []
        for k, index in enumerate(indices):
            alone.append(draw(model, sampling, seed, y[k : k + 1], [index], device))
            if progress is not None:
                progress(k + 1, len(indices))
        return torch.cat(alone)
    c = model.config
    shape = (c.latent_channels, c.latent_size, c.latent_size)
    start = samplers.start_noise(seed, indices, shape, "sample start", device)
    noise_at = samplers.per_sample_noise(seed, indices, shape, "sample noise", device)
    return sampling.integrate(sampling.field(model, y, null=c.classes), start, noise_at, progress=progress)


@torch.no_grad()
def decode(vae: "AutoencoderKL", z: Tensor, indices: list[int], what: str, precision: str = "fp32") -> Tensor:
    """Unscaled latents [B, C, h, w] -> uint8 images [B, 3, H, W]; FloatingPointError names `what` is not finite."""
    if not torch.isfinite(z).all():
        raise FloatingPointError(
            f"{what}: sampling gave non-finite latents (samples {indices[0]} to {indices[-1]}); the network has diverged"
        )
    with precisions.running(z.device, precision):
        images = vae.decode(z.float()).sample
    return to_uint8(images.float())
