"""What is done to latents between an autoencoder and a transformer, and undone: diffusers' scaling_factor, latents_mean and latents_std."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

FACTOR, MEAN, STD, SHIFT = "scaling_factor", "latents_mean", "latents_std", "shift_factor"
CLASS_FACTOR = 0.18215  # of diffusers' AutoencoderKL, where a config states none


@dataclass(frozen=True)
class LatentScale:
    """x = (z - mean) * factor / std, channel by channel; without ``mean`` and ``std`` (both or none are set) x = z * factor."""

    factor: float
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @classmethod
    def of(cls, facts: Mapping[str, Any], factor: float | None = None) -> "LatentScale":
        """As `facts` wrote it, with another ``factor`` where one is given."""
        mean, std = facts.get(MEAN), facts.get(STD)
        own = facts[FACTOR] if factor is None else factor
        return cls(own, None if mean is None else tuple(mean), None if std is None else tuple(std))

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> "LatentScale":
        """What an autoencoder's config.json asks of its users; a shift_factor is the mean of every channel.

        Raises ValueError, without the file's name, for values that no latents can be scaled by.
        """
        channels, factor = config.get("latent_channels", 4), config.get(FACTOR, CLASS_FACTOR)
        mean, std, shift = (config.get(key) for key in (MEAN, STD, SHIFT))
        if not isinstance(channels, int) or channels < 1:
            raise ValueError(f"has latent_channels {channels}; expected a whole number above 0")
        if shift and mean is not None:
            raise ValueError(f"has {SHIFT} {shift} and {MEAN}; which one is subtracted?")
        if shift:
            mean = [shift] * channels
        mean, std = [0.0] * channels if mean is None else mean, [1.0] * channels if std is None else std
        for key, values in ((MEAN, mean), (STD, std)):
            if not isinstance(values, list | tuple) or len(values) != channels or not all(map(_finite, values)):
                raise ValueError(f"has {key} {values}; expected {channels} numbers, one for each channel")
        if min(std) <= 0:
            raise ValueError(f"has {STD} {list(std)}; expected numbers above 0")
        if not _finite(factor) or factor <= 0:
            raise ValueError(f"has {FACTOR} {factor}; expected a number above 0")
        neutral = not any(mean) and all(value == 1 for value in std)
        return cls(factor) if neutral else cls(factor, tuple(map(float, mean)), tuple(map(float, std)))

    def facts(self) -> dict[str, Any]:
        """As JSON, for indexes and checkpoints."""
        per_channel = {} if self.mean is None or self.std is None else {MEAN: list(self.mean), STD: list(self.std)}
        return {FACTOR: self.factor, **per_channel}

    def times(self, factor: float | None) -> "LatentScale":
        """The same with another factor; itself where there is none."""
        return self if factor is None else replace(self, factor=factor)

    def scaled_(self, z: Tensor) -> Tensor:
        """Latents z [B, C, h, w] of the autoencoder -> those of a transformer, in place."""
        if self.mean is None or self.std is None:
            return z.mul_(self.factor)
        return z.sub_(_channels(self.mean, z)).mul_(_channels([self.factor / std for std in self.std], z))

    def unscaled(self, x: Tensor) -> Tensor:
        """Back: what the autoencoder decodes."""
        if self.mean is None or self.std is None:
            return x / self.factor
        return x * _channels([std / self.factor for std in self.std], x) + _channels(self.mean, x)

    def __str__(self) -> str:
        return f"{self.factor:.6g}" + ("" if self.mean is None else ", each channel by its own mean and std")


def _channels(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
