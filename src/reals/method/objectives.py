"""Training losses of the generators as pure functions of model, batch, times and noise."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from reals.method import ddpm, paths

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x [B, C, H, W], times [B], classes [B]) -> the raw output: a `Transformer`, or a function that stands for one."""


class Losses(NamedTuple):
    """`total`: the scalar to differentiate; `parts`: its unweighted terms, detached scalars, for the log."""

    total: Tensor
    parts: dict[str, Tensor]


def wide(x: Tensor) -> Tensor:
    """x in float32, or float64 where it is: networks may compute in half precision, losses do not."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def dense_cross_entropy(logits: Tensor, classes: Tensor, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
    """F.cross_entropy of logits [B, K, ...] and classes [B, ...], to the bit, by a kernel that is deterministic on CUDA too.

    F.cross_entropy itself takes nll_loss2d there, of which CUDA has no deterministic version.
    """
    rows = F.log_softmax(logits, dim=1).movedim(1, -1).flatten(0, -2)
    return F.nll_loss(rows, classes.flatten(), ignore_index=ignore_index, reduction=reduction)


def drop_labels(y: Tensor, uniform: Tensor, probability: float, null: int) -> Tensor:
    """y [B] int64 with the null class where uniform [B], drawn from [0, 1), is below `probability`."""
    return torch.where(uniform < probability, null, y)


def logit_normal(normal: Tensor) -> Tensor:
    """Training times in (0, 1), sigmoid(normal) of standard normal draws [B]: more of them in the middle of the path than at its ends.

    Esser et al. 2024 (Stable Diffusion 3, Section 3.1) with location 0 and scale 1, as LightningDiT trains. The distribution is
    symmetric, so that it is the same for time running either way.
    """
    return torch.sigmoid(normal)


def flow_loss(model: Network, x: Tensor, y: Tensor, t: Tensor, noise: Tensor, path: paths.Path = paths.linear) -> Losses:
    """Mean squared error of the velocity (SiT).

    x, noise [B, C, H, W], y [B] int64, t [B] in [0, 1] with 1 the last time that the path is trained at: the data, but for
    vp (`paths.last_training_time`). Only the first C output channels are used, so variance channels (`learn_sigma`) get no
    gradient.
    """
    t = t * paths.last_training_time(path)
    x_t, velocity = paths.interpolate(path, x, noise, t)
    loss = F.mse_loss(model(x_t, t, y)[:, : x.shape[1]].to(velocity.dtype), velocity)
    return Losses(loss, {"velocity": loss.detach()})


def ddpm_loss(model: Network, schedule: ddpm.Schedule, x: Tensor, y: Tensor, t: Tensor, noise: Tensor) -> Losses:
    """Mean squared error of the noise plus the variational bound in bits per dimension, unweighted (DiT).

    x, noise [B, C, H, W], y [B] int64, t [B] int64 in 0..len(schedule)-1, all on the schedule's device. The bound trains the variance
    channels only: the predicted noise enters it detached. Raises ValueError if the model has no variance
    channels.
    """
    x_t = ddpm.add_noise(schedule, x, t, noise)
    predicted, v = ddpm.split(model(x_t, schedule.timesteps[t], y).to(x.dtype), x)
    mse = F.mse_loss(predicted, noise)
    vb = ddpm.variational_bound(schedule, torch.cat([predicted.detach(), v], dim=1), x, x_t, t).mean()
    return Losses(mse + vb, {"mse": mse.detach(), "vb": vb.detach()})


def projection_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """Minus the mean cosine similarity of student and teacher tokens [B, T, D], in float32 or wider (REPA).

    Raises ValueError if the shapes differ.
    """
    if projected.shape != teacher.shape:
        raise ValueError(
            f"REPA tokens: got {tuple(teacher.shape)} from the teacher, expected {tuple(projected.shape)}; "
            "match the teacher's input size to the latent's patches and projector_dim to its width"
        )
    # Squared norms overflow in half precision, a known source of NaN in REPA training.
    projected, teacher = wide(projected), wide(teacher)
    return -(F.normalize(projected, dim=-1) * F.normalize(teacher, dim=-1)).sum(-1).mean()


def repa_loss(
    model: Callable[..., tuple[Tensor, Tensor]],
    x: Tensor,
    y: Tensor,
    t: Tensor,
    noise: Tensor,
    teacher_tokens: Tensor,
    coefficient: float = 0.5,
) -> Losses:
    """The linear-path velocity loss plus `coefficient` times the projection loss (REPA, Yu et al. 2024).

    Arguments as `flow_loss`, in its time (t = 0 is noise). REPA's code runs tau = 1 - t with the target eps -
    x: its network is this one with time reversed and output negated, and for uniform times the loss has the
    same distribution. `teacher_tokens` [B, T, D] are the clean image's features.
    """
    x_t, velocity = paths.interpolate(paths.linear, x, noise, t)
    output, projected = model(x_t, t, y, project=True)
    loss = F.mse_loss(output[:, : x.shape[1]].to(velocity.dtype), velocity)
    projection = projection_loss(projected, teacher_tokens)
    total = loss + coefficient * projection
    return Losses(total, {"velocity": loss.detach(), "projection": projection.detach()})
