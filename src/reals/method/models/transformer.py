"""The latent diffusion transformer, the one network that DiT, SiT and REPA share (Peebles & Xie 2023)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reals.method.models.bf16 import Linear, attention
from reals.method.models.gelu import gelu

FULL_SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}
"""Published sizes as (width, depth, heads), DiT table 1."""

TIME_FREQUENCIES = 128
MAX_PERIOD = 10_000.0
MLP_RATIO = 4
NORM_EPS = 1e-6
EMBEDDING_STD = 0.02

Projected = Tensor | tuple[Tensor, ...]
"""Features [B, T, projector_dim] through the REPA projector; a tuple of them for several teachers."""


@dataclass(frozen=True)
class TransformerConfig:
    """Everything that fixes the parameters of a `Transformer`.

    `patch`, `latent_size` are in latent cells; `classes` excludes the null class, which exists iff
    `label_dropout` > 0 and has the index `classes`. `learn_sigma` doubles the output channels (DiT's
    variance; unused and untrained in SiT). `projector_depth` (how many blocks the aligned features have
    passed, counted from 1) and `projector_dim` (the teacher's width; a tuple for several teachers) switch the REPA
    projectors on together: depth 4 for B, 8 for L and XL in REPA.
    """

    width: int
    depth: int
    heads: int
    patch: int
    latent_channels: int
    latent_size: int
    classes: int
    learn_sigma: bool
    label_dropout: float = 0.1
    projector_depth: int | None = None
    projector_dim: int | tuple[int, ...] | None = None
    projector_hidden: int = 2048

    def __post_init__(self) -> None:
        sizes = ["width", "depth", "heads", "patch", "latent_channels", "latent_size", "classes"]
        for name in [*sizes, "projector_hidden"]:
            if getattr(self, name) < 1:
                raise ValueError(f"transformer {name}: got {getattr(self, name)}, expected at least 1")
        if self.width % self.heads:
            raise ValueError(f"transformer width: got {self.width}, expected a multiple of heads ({self.heads})")
        if self.width % 4:
            raise ValueError(f"transformer width: got {self.width}, expected a multiple of 4 (sin-cos positions)")
        if self.latent_size % self.patch:
            raise ValueError(f"transformer patch: got {self.patch}, expected a divisor of latent_size {self.latent_size}")
        if not 0 <= self.label_dropout < 1:
            raise ValueError(f"label_dropout: got {self.label_dropout}, expected 0 <= label_dropout < 1")
        if (self.projector_depth is None) != (self.projector_dim is None):
            raise ValueError("projector_depth and projector_dim: got one of them; give both (REPA) or neither")
        if self.projector_depth is not None and not 1 <= self.projector_depth <= self.depth:
            raise ValueError(f"projector_depth: got {self.projector_depth}, expected 1..{self.depth} (depth)")
        if self.projector_dim is not None and min(self.projector_dims, default=0) < 1:
            raise ValueError(f"projector_dim: got {self.projector_dim}, expected the teacher's width")

    @property
    def out_channels(self) -> int:
        return self.latent_channels * (2 if self.learn_sigma else 1)

    @property
    def projector_dims(self) -> tuple[int, ...]:
        """The width of each teacher, none without REPA."""
        dims = self.projector_dim
        return () if dims is None else (dims,) if isinstance(dims, int) else tuple(dims)

    @property
    def tokens(self) -> int:
        return (self.latent_size // self.patch) ** 2


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x [B, T, D] -> x * (1 + scale) + shift, with shift and scale [B, D] shared by all tokens."""
    return torch.addcmul(shift.unsqueeze(1), x, 1 + scale.unsqueeze(1))


def gated(x: Tensor, gate: Tensor, branch: Tensor) -> Tensor:
    """The residual sum x + gate * branch, with x and branch [B, T, D] and gate [B, D]."""
    return torch.addcmul(x, gate.unsqueeze(1), branch)


def time_frequencies(t: Tensor) -> Tensor:
    """t [B] -> [B, 256] float32: cosines, then sines, of t times 10000^(-i/128).

    t enters as it is: 0..999 in DiT, [0, 1] in SiT. Always float32: half precision cannot tell neighbouring
    times apart.
    """
    index = torch.arange(TIME_FREQUENCIES, dtype=torch.float32, device=t.device)
    phase = t.float()[:, None] * torch.exp(index * (-math.log(MAX_PERIOD) / TIME_FREQUENCIES))
    return torch.cat([phase.cos(), phase.sin()], dim=1)


def sincos_positions(width: int, side: int) -> Tensor:
    """Fixed 2-D sin-cos positions [1, side * side, width], float32 (MAE).

    The first half of the width encodes the column, the second the row; each is sines, then cosines, of the
    integer coordinate times 10000^(-i / (width / 4)).
    """
    quarter = width // 4
    omega = MAX_PERIOD ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    phase = torch.arange(side, dtype=torch.float64)[:, None] * omega
    axis = torch.cat([phase.sin(), phase.cos()], dim=1)
    columns = axis[None, :, :].expand(side, side, -1)
    rows = axis[:, None, :].expand(side, side, -1)
    return torch.cat([columns, rows], dim=2).reshape(1, side * side, width).float()


def unpatchify(tokens: Tensor, patch: int) -> Tensor:
    """tokens [B, h*h, patch*patch*C], each ordered (row, column, channel) -> [B, C, h*patch, h*patch]."""
    batch, count, size = tokens.shape
    side, channels = math.isqrt(count), size // patch**2
    grid = tokens.view(batch, side, side, patch, patch, channels)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, side * patch, side * patch)


class PatchEmbedding(nn.Module):
    def __init__(self, channels: int, width: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        # Contiguous, or every later layer inherits the channel-first strides: a norm then copies, and all is 10 % slower.
        return self.proj(x).flatten(2).transpose(1, 2).contiguous()


class TimeEmbedding(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * TIME_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(time_frequencies(t).to(next(self.mlp.parameters()).dtype))


class LabelEmbedding(nn.Module):
    def __init__(self, rows: int, width: int):
        super().__init__()
        self.embedding_table = nn.Embedding(rows, width)

    def forward(self, y: Tensor) -> Tensor:
        return self.embedding_table(y)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads)
        return self.proj(attention(qkv).reshape(batch, tokens, width))


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1 = Linear(width, MLP_RATIO * width)
        self.fc2 = Linear(MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention and feed-forward, each normalised, then modulated and gated by c [B, D] (adaLN-Zero)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attn = Attention(width, heads)
        self.mlp = FeedForward(width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        attention, feed_forward = self.adaLN_modulation(c).chunk(2, dim=1)
        shift, scale, gate = attention.chunk(3, dim=1)
        x = gated(x, gate, self.attn(modulate(normalised(x), shift, scale)))
        shift, scale, gate = feed_forward.chunk(3, dim=1)
        return gated(x, gate, self.mlp(modulate(normalised(x), shift, scale)))


class FinalLayer(nn.Module):
    def __init__(self, width: int, out_features: int):
        super().__init__()
        self.linear = nn.Linear(width, out_features)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulate(normalised(x), shift, scale))


def normalised(x: Tensor) -> Tensor:
    """Layer norm over the last axis, without affine parameters."""
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)


def _projector(width: int, hidden: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, dim))


class Transformer(nn.Module):
    """The network; its state dict has the keys and shapes of the published DiT, SiT and REPA checkpoints.

    Two things differ from the reference implementations, by choice: label dropout is not inside `forward`
    (`objectives.drop_labels` replaces labels by the null class, so that the training step keys the randomness
    and not the module's state), and SiT's `learn_sigma` output is returned whole (the caller takes the first
    C channels). Call `initialise` after construction.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        side = config.latent_size // config.patch
        self.pos_embed = nn.Parameter(sincos_positions(config.width, side), requires_grad=False)
        self.x_embedder = PatchEmbedding(config.latent_channels, config.width, config.patch)
        self.t_embedder = TimeEmbedding(config.width)
        self.y_embedder = LabelEmbedding(config.classes + (config.label_dropout > 0), config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.final_layer = FinalLayer(config.width, config.patch**2 * config.out_channels)
        # Last, so that the weights before them do not depend on whether REPA is on (see `initialise`).
        if config.projector_dims:
            self.projectors = nn.ModuleList(
                _projector(config.width, config.projector_hidden, dim) for dim in config.projector_dims
            )

    def forward(self, x: Tensor, t: Tensor, y: Tensor, project: bool = False) -> Tensor | tuple[Tensor, Projected]:
        """x [B, C, H, W], t [B], y [B] int64 -> raw output [B, `config.out_channels`, H, W].

        With `project`, (output, projected): the features after block `projector_depth` through the REPA
        projector, [B, T, projector_dim], or a tuple of them for several teachers. It is an argument of `forward`, so that DistributedDataParallel and
        torch.compile see it.
        """
        if project and self.config.projector_dim is None:
            raise ValueError("the transformer has no projector: give projector_depth and projector_dim in its config")
        expected = (self.config.latent_channels, self.config.latent_size, self.config.latent_size)
        if x.shape[1:] != expected:
            raise ValueError(f"latents: got {tuple(x.shape[1:])}, expected {expected} as in the transformer's config")
        c = self.t_embedder(t) + self.y_embedder(y)
        h = self.x_embedder(x) + self.pos_embed
        projected: tuple[Tensor, ...] = ()
        for passed, block in enumerate(self.blocks, start=1):
            h = block(h, c)
            if project and passed == self.config.projector_depth:
                projected = tuple(projector(h) for projector in self.projectors)
        output = unpatchify(self.final_layer(h, c), self.config.patch)
        if not project:
            return output
        return output, projected if isinstance(self.config.projector_dim, tuple | list) else projected[0]

    def compile(self, **options: Any) -> None:
        """torch.compile of the blocks, in place: they share one graph, made in seconds where the whole network takes minutes.

        `options` are torch.compile's.
        """
        # tanh by exponentials: half the cost of the library's, which is exact to the last digit near 0, where GELU needs none.
        settings = {"cpp.use_decompose_tanh": True, **options.pop("options", {})}
        for block in self.blocks:
            block.compile(options=settings, **options)

    def forward_features(self, x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Projected]:
        """(output [B, C_out, H, W], projected [B, T, projector_dim]): `forward` with `project`."""
        return self(x, t, y, project=True)


@torch.no_grad()
def initialise(model: Transformer, generator: torch.Generator) -> None:
    """Set every weight to the references' initialisation, drawn from a CPU `generator` in parameter order.

    Xavier-uniform matrices (the patch convolution counts as one), N(0, 0.02) label table and time MLP, zero
    biases, zero adaLN and output layers: the model's output is exactly 0. The backbone's weights do not
    depend on the projector.
    """
    for name, parameter in model.named_parameters():
        if name == "pos_embed":
            continue
        if name.endswith("bias") or "adaLN_modulation" in name or name.startswith("final_layer.linear"):
            parameter.zero_()
            continue
        drawn = torch.empty(parameter.shape)
        if name.startswith(("t_embedder", "y_embedder")):
            drawn.normal_(std=EMBEDDING_STD, generator=generator)
        else:
            fan_out, fan_in = drawn.flatten(1).shape
            bound = math.sqrt(6 / (fan_in + fan_out))
            drawn.uniform_(-bound, bound, generator=generator)
        parameter.copy_(drawn)
