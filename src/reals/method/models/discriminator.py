"""The PatchGAN discriminator and its hinge losses (Isola et al. 2017; taming-transformers' settings)."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm(nn.BatchNorm2d):
    """Batch norm by the statistics of the whole batch, whatever the number of processes that share it.

    (nn.SyncBatchNorm does the same, on GPUs only.) It is never used but in training, so it keeps no running statistics.
    """

    def __init__(self, channels: int):
        super().__init__(channels, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        if not dist.is_initialized():
            return super().forward(x)
        from torch.distributed.nn.functional import all_reduce  # differentiable

        kept, x = x.dtype, x.float()
        per_channel = (0, 2, 3)
        count = x.new_full((), x.numel() // x.shape[1])
        dist.all_reduce(count)
        mean = (all_reduce(x.sum(per_channel)) / count)[:, None, None]
        var = (all_reduce((x - mean).square().sum(per_channel)) / count)[:, None, None]
        normed = (x - mean) * torch.rsqrt(var + self.eps)
        return (normed * self.weight[:, None, None] + self.bias[:, None, None]).to(kept)


def patch_gan(channels: int = 64, layers: int = 3) -> nn.Sequential:
    """images [B, 3, H, W] -> logits [B, 1, h, w]; 30x30 and 2,765,633 parameters for 256 px at the defaults.

    ``layers`` strided 4x4 convolutions, doubling up to 8 x ``channels``, then one unstrided and the logit layer;
    batch norm (and no bias) on all but the first and the last, LeakyReLU 0.2.
    """
    widths = [channels * min(2**i, 8) for i in range(layers + 1)]
    modules: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 2, 1), nn.LeakyReLU(0.2)]
    for i, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True), start=1):
        stride = 2 if i < layers else 1
        modules += [nn.Conv2d(before, after, 4, stride, 1, bias=False), BatchNorm(after), nn.LeakyReLU(0.2)]
    return nn.Sequential(*modules, nn.Conv2d(widths[-1], 1, 4, 1, 1))


@torch.no_grad()
def initialise(discriminator: nn.Module, generator: torch.Generator) -> None:
    """Convolutions N(0, 0.02), norm weights N(1, 0.02), biases 0 (pix2pix), drawn from ``generator``."""
    for module in discriminator.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.normal_(0, 0.02, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.normal_(1, 0.02, generator=generator)
        else:
            continue
        if module.bias is not None:
            module.bias.zero_()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """-mean D(reconstruction): L_GAN of Eq. 3."""
    return -fake_logits.mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Hinge loss, 0.5 (mean relu(1 - D(x)) + mean relu(1 + D(reconstruction))); 1.0 at zero logits."""
    return 0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean())
