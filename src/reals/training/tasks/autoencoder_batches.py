"""What one step of the autoencoder's training sees: images, flips, posterior noise and, from the cache, the teacher's features."""

from typing import NamedTuple

import torch
from torch import Tensor

from reals import rng
from reals.data.dataset import Images
from reals.data.readers import CachedFeatures
from reals.experiment.specs import TrainedAutoencoderSpec
from reals.method.models.teacher import OnlineFeatures
from reals.training.batches import data_order, pinned
from reals.training.processes import Processes

TeacherFeatures = CachedFeatures | OnlineFeatures
"""(indices, flips, images uint8 [B, 3, R, R]) -> (patches [B, T, D], cls [B, D])."""


class Batch(NamedTuple):
    """What one process needs of one step's batch, on the CPU; rows are samples."""

    indices: list[int]
    flips: Tensor  # bool: which images are to be mirrored
    pixels: Tensor  # uint8, not mirrored yet
    noise: Tensor  # of the posterior sample
    patch: Tensor | None  # the teacher's features, from the cache
    cls: Tensor | None


class Batches:
    """This process's rows of the batch of a step. All is drawn for the global batch, so that the split does not matter."""

    def __init__(self, spec: TrainedAutoencoderSpec, images: Images, teacher: TeacherFeatures | None, processes: Processes):
        self.spec, self.images, self.processes = spec, images, processes
        self.cached = teacher if isinstance(teacher, CachedFeatures) else None

    def __call__(self, step: int) -> Batch:
        spec, seed, n = self.spec, self.spec.seed, self.spec.batch
        rows = self.processes.rows(n)
        indices = data_order(seed, step, n, len(self.images))[rows]
        flips = (torch.rand(n, generator=rng.generator(seed, "flip", step)) < 0.5)[rows] & spec.flip
        pixels = torch.from_numpy(self.images.batch(indices))
        side = pixels.shape[-1] // 2 ** (len(spec.block_out_channels) - 1)
        shape = (n, spec.latent_channels, side, side)
        noise = torch.randn(shape, generator=rng.generator(seed, "posterior", step))[rows]
        patch, cls = self.cached(indices, flips, None) if self.cached is not None else (None, None)
        return pinned(Batch(indices, flips, pixels, noise, patch, cls), self.processes.device)
