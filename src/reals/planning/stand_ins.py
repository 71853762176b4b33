"""Stand-ins for images and caches: the readers' own classes over a few random rows in memory, as many images long as asked."""

import numpy as np

from reals.data.cache import DTYPE, Layout
from reals.data.dataset import Images, Indices
from reals.data.latent_scale import LatentScale
from reals.data.readers import CachedFeatures, Latents, feature_layout, latent_layout

ROWS = 64  # that are there; image i is row i mod 64
LOGVAR = -6.0  # of the posterior: SD-VAE's is narrow


class ImagesStandIn(Images):
    """``count`` random images of ``classes`` classes, the label of image i being i mod classes."""

    _array: np.ndarray

    def __init__(self, count: int, resolution: int, classes: int):
        self.manifest = {"files": {}, "images": count}
        self.classes, self.resolution = [str(c) for c in range(classes)], resolution
        self.labels = np.arange(count) % classes
        bits = np.random.default_rng(0)
        self._array = bits.integers(0, 256, (min(ROWS, count), 3, resolution, resolution), np.uint8)

    def batch(self, indices: Indices, flips: np.ndarray | None = None) -> np.ndarray:
        return super().batch(np.asarray(indices) % len(self._array), flips)


def _rows(layout: Layout) -> dict[str, np.ndarray]:
    """Random rows of each field, [rows, flips, *row]."""
    bits, count = np.random.default_rng(0), min(ROWS, layout.images)
    return {field: bits.standard_normal((count, layout.flips, *row)).astype(DTYPE) for field, row in layout.fields.items()}


class LatentsStandIn(Latents):
    """Random moments in place of a cache of ``count`` images' latents; mirrored rows are others."""

    def __init__(self, count: int, channels: int, size: int, scaling_factor: float | None = None):
        self.layout, self.manifest = latent_layout(count, 2, channels, size), {"autoencoder": "none"}
        self.scale = LatentScale(scaling_factor or 1.0)
        moments = _rows(self.layout)["moments"]
        moments[:, :, channels:] = LOGVAR
        self._moments = moments

    def rows(self, field: str, indices: Indices, flips: Indices) -> np.ndarray:
        return self._moments[np.asarray(indices, np.int64) % len(self._moments), np.asarray(flips, np.int64)]


class FeaturesStandIn(CachedFeatures):
    """Random features in place of a cache of ``count`` images' patches (none where ``grid`` is 0) and cls tokens."""

    def __init__(self, count: int, flips: int, grid: int, width: int):
        self.layout, self.manifest = feature_layout(count, flips, grid, width, cls_only=grid == 0), {}
        self._features = _rows(self.layout)

    def rows(self, field: str, indices: Indices, flips: Indices) -> np.ndarray:
        kept = self._features[field]
        return kept[np.asarray(indices, np.int64) % len(kept), np.asarray(flips, np.int64)]
