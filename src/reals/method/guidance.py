"""Fields that samplers follow, and classifier-free guidance, which wraps the field and never the sampler."""

from collections.abc import Callable

import torch
from torch import Tensor

from reals.experiment.sampler_table import CHAIN_STEPS, GUIDED_CHANNELS, INTERVAL_TIMES
from reals.method.objectives import Network

Field = Callable[[Tensor, float], Tensor]
"""(x [B, C, H, W], a time shared by the batch) -> the velocity at a float t, or a DiT's raw output at an int training step."""

# A grid time that equals a bound up to rounding belongs to the interval, whichever way the rounding went.
INTERVAL_SLACK = 1e-9


def guided(
    model: Network,
    y: Tensor,
    scale: float,
    *,
    null: int,
    channels: int | str,
    interval: tuple[float, float] = (0.0, 1.0),
    interval_time: str = "noise",
) -> Field:
    """The velocity field v_null + scale (v_y - v_null) of a SiT or REPA model (classifier-free guidance).

    y [B] int64 are the classes, `null` the null class. `channels`: guide the first 3 and leave the others
    conditional (DiT's and SiT's code, after GLIDE) or "all" (REPA). Guidance acts while the time is inside
    `interval`, bounds included; "noise" counts it as tau = 1 - t (REPA, Kynkaanniemi et al. 2024), "data" as
    t. Inside, an evaluation is one network call on the doubled batch; outside, and everywhere at scale 1, one
    on the conditional batch. The interval is tested at the time of each evaluation, so the two stages of a
    Heun step that crosses a bound differ. Raises ValueError for settings out of range.
    """
    acts = _acts(scale, channels, interval, interval_time)
    output = _output(model, y, scale, null, channels)

    def field(x: Tensor, t: float) -> Tensor:
        assert isinstance(t, float), f"velocity asked for at step {t}; a DDPM sampler needs guided_noise"
        return output(x, t, acts(max(1 - t, 0.0)))[:, : x.shape[1]]  # an adaptive solver may look past t = 1

    return field


def guided_noise(
    model: Network,
    y: Tensor,
    scale: float,
    *,
    null: int,
    channels: int | str,
    interval: tuple[float, float] = (0.0, 1.0),
    interval_time: str = "noise",
) -> Field:
    """The raw output [B, 2C, H, W] of a DiT model with its noise channels under classifier-free guidance.

    Arguments as `guided`; the noise time of training step k is k / 999 (our choice: no reference guides a DiT in an
    interval). The variance channels are always those of the conditional half.
    """
    acts = _acts(scale, channels, interval, interval_time)
    output = _output(model, y, scale, null, channels)

    def field(x: Tensor, t: float) -> Tensor:
        assert isinstance(t, int), f"DDPM output asked for at t = {t}; a flow sampler needs guided"
        return output(x, t, acts(t / (CHAIN_STEPS - 1)))

    return field


def _output(model: Network, y: Tensor, scale: float, null: int, channels: int | str) -> Callable[[Tensor, float, bool], Tensor]:
    """The model's raw output at (x, t): guided from one call on the doubled batch, or conditional from one call."""
    both = torch.cat([y, torch.full_like(y, null)])

    def output(x: Tensor, t: float, guide: bool) -> Tensor:
        if not guide:
            return model(x, _times(t, x), y)
        doubled = torch.cat([x, x])
        return _mixed(model(doubled, _times(t, doubled), both), scale, channels, x.shape[1])

    return output


def _acts(scale: float, channels: int | str, interval: tuple[float, float], interval_time: str) -> Callable[[float], bool]:
    """Whether guidance acts at a noise time in [0, 1], 1 being noise. ValueError for settings out of range."""
    if not scale >= 0:
        raise ValueError(f"guidance scale: got {scale}, expected at least 0 (1 is no guidance)")
    if channels not in GUIDED_CHANNELS.values():
        raise ValueError(f"guidance channels: got {channels!r}, expected 3 or 'all'")
    low, high = interval
    if not 0 <= low <= high <= 1:
        raise ValueError(f"guidance interval: got [{low}, {high}], expected 0 <= low <= high <= 1")
    if interval_time not in INTERVAL_TIMES:
        raise ValueError(f"guidance interval_time: got {interval_time!r}, expected 'noise' or 'data'")

    def acts(noise_time: float) -> bool:
        position = noise_time if interval_time == "noise" else 1 - noise_time
        return scale != 1 and low - INTERVAL_SLACK <= position <= high + INTERVAL_SLACK

    return acts


def _times(t: float, x: Tensor) -> Tensor:
    # A step number is int64 (DiT), a time float32 (SiT); never x's dtype: half precision would round it.
    dtype = torch.int64 if isinstance(t, int) else torch.float32
    return torch.full((len(x),), t, device=x.device, dtype=dtype)


def _mixed(output: Tensor, scale: float, channels: int | str, latent_channels: int) -> Tensor:
    """Guide the leading channels of a doubled batch's output; the rest is the conditional half's."""
    conditional, unconditional = output.chunk(2)
    count = latent_channels if channels == "all" else min(int(channels), latent_channels)  # what follows is variances
    mixed = unconditional[:, :count] + scale * (conditional[:, :count] - unconditional[:, :count])
    return torch.cat([mixed, conditional[:, count:]], dim=1)
