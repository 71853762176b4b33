"""A feature extractor: a named network from bytes of images to pool features, a spatial map and class logits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from reals.files import sha256 as file_sha256

SPATIAL_CHANNELS = 7  # of the spatial map, as in ADM's sFID
FIELDS = ("pool", "spatial", "logits")
POOL_WIDTH, SPATIAL_WIDTH = 2048, SPATIAL_CHANNELS * 17 * 17  # of ADM's


@dataclass(frozen=True)
class Features:
    """Of N images: ``pool`` [N, D], ``spatial`` [N, S] (for sFID), ``logits`` [N, K]; float32 on the CPU.

    A network without a spatial map or without classes gives S = 0 or K = 0: there is no sFID or IS then.
    """

    pool: Tensor
    spatial: Tensor
    logits: Tensor

    def __len__(self) -> int:
        return len(self.pool)


@dataclass(frozen=True)
class Extractor:
    """A named network; ``features`` maps bytes [N, 3, H, W], on its device, to Features without gradients."""

    name: str
    network: nn.Module
    features: Callable[[Tensor], Features]

    def to(self, device: torch.device | str) -> Extractor:
        """Move the network to ``device``; returns self."""
        self.network.to(device)
        return self

    @cached_property
    def sha256(self) -> str:
        """Of the weights themselves (names, shapes, bytes), so that it is the same for every file format."""
        digest = hashlib.sha256()
        for name, value in sorted(self.network.state_dict().items()):
            array = value.detach().cpu().contiguous()
            digest.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
            digest.update(array.reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def extract(extractor: Extractor, batches: Iterable[Tensor], progress: Callable[[int], None] | None = None) -> Features:
    """Features of all images in one pass over ``batches`` of bytes [B, 3, H, W].

    Batches are moved to the network's device; ``progress`` is called with the number of images done.
    ValueError if there is no batch or one is not bytes.
    """
    device = next(extractor.network.parameters()).device
    parts: list[Features] = []
    done = 0
    for batch in batches:
        check_bytes(batch)
        parts.append(extractor.features(batch.to(device)))
        done += len(batch)
        if progress is not None:
            progress(done)
    if not parts:
        raise ValueError("extract: no images; expected at least one batch [B, 3, H, W] of uint8")
    return joined(parts)


def joined(parts: list[Features]) -> Features:
    """Features of all parts, in their order."""
    return Features(*(torch.cat([getattr(p, field) for p in parts]) for field in FIELDS))


def flat(spatial: Tensor) -> Tensor:
    """[N, h w c] from [N, c, h, w], in the (row, column, channel) order of ADM's reference statistics."""
    return spatial.permute(0, 2, 3, 1).flatten(1)


def on_cpu(pool: Tensor, spatial: Tensor, logits: Tensor) -> Features:
    """Features as they are kept, of a spatial map [N, c, h, w]."""
    return Features(*(t.to("cpu", torch.float32) for t in (pool, flat(spatial), logits)))


def check_bytes(images: Tensor) -> None:
    """ValueError unless ``images`` are uint8 [N, 3, H, W]."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images: got {images.dtype} {tuple(images.shape)}, expected uint8 [N, 3, H, W]")


def check_weights(weights: Path | None, sha256: str | None) -> None:
    """ValueError where a file of weights is missing or has another checksum than ``sha256``, if one is given."""
    if weights is None:
        if sha256 is not None:
            raise ValueError("sha256: given without a weights file; give both or neither")
        return
    if not weights.is_file():
        raise ValueError(f"{weights}: no such file; give the weights' own path")
    if sha256 is not None and (digest := file_sha256(weights)) != sha256:
        raise ValueError(f"{weights}: sha256 is {digest}, expected {sha256}; fetch the file again")
