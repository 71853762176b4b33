"""How much meaning a latent space holds: consistency under augmentation, classes found in it, maps of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reals.rng import generator

AUGMENTATIONS = ("crop", "flip", "blur", "grayscale", "all")
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class ViewSettings:
    """How a random view is made. The paper states none of this; the defaults are MoCo v2's crop and blur.

    ``crop_scale``: area of the crop as a share of the image; ``crop_ratio``: its width over height;
    ``blur_sigma``: pixels; ``blur_kernel``: odd width in pixels (SimCLR: a tenth of the image). A probability
    applies per view.
    """

    crop_scale: tuple[float, float] = (0.2, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.5
    blur_probability: float = 1.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_kernel: int = 23
    grayscale_probability: float = 1.0

    def __post_init__(self) -> None:
        for name in ("crop_scale", "crop_ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name}: got ({low}, {high}), expected 0 < low <= high")
        if self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale: got {self.crop_scale}, expected at most 1, the whole image")
        for name in ("flip_probability", "blur_probability", "grayscale_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected 0 to 1")
        if self.blur_kernel < 1 or self.blur_kernel % 2 == 0:
            raise ValueError(f"blur_kernel: got {self.blur_kernel}, expected a positive odd number of pixels")


class Consistency(NamedTuple):
    """``sc`` is the paper's. ``centred`` is ours: the same once the mean latent of all views is subtracted.

    What every image has in common (a channel's offset, a plain background) raises the cosine without meaning anything.
    """

    sc: float
    centred: float


@torch.no_grad()
def semantic_consistency(
    encode: Callable[[Tensor], Tensor],
    images: Tensor,
    augmentation: str,
    settings: ViewSettings,
    seed: int,
    batch_size: int = 64,
) -> Consistency:
    """Mean cosine between the latents of two random views of each image: SC of Algorithm 1 and Table 2.

    ``images`` [N, 3, H, W] in [0, 1]; ``encode`` maps a batch of such images to posterior means [B, C, h, w],
    which are flattened. Each view is a random resized crop, plus what ``augmentation`` names: nothing more
    ("crop"), or "flip", "blur", "grayscale", or "all" three. The paper leaves the views and the use of the
    mean open; its values for flip and blur are too low for views without a crop, so the crop is always on. A
    view depends on (seed, image index, view) only, and the crops are the same under every augmentation.
    """
    if augmentation not in AUGMENTATIONS:
        raise ValueError(f"augmentation: got {augmentation!r}, expected one of {', '.join(AUGMENTATIONS)}")
    if images.ndim != 4 or images.shape[1] != 3 or len(images) == 0 or not images.is_floating_point():
        raise ValueError(f"images: got {images.dtype} {tuple(images.shape)}, expected floating [N, 3, H, W]")

    def latents(start: int, view: int) -> Tensor:
        batch = enumerate(images[start : start + batch_size], start)
        views = [random_view(x, augmentation, settings, seed, i, view) for i, x in batch]
        return encode(torch.stack(views)).flatten(1).double()

    starts = range(0, len(images), batch_size)
    first, second = (torch.cat([latents(start, view) for start in starts]) for view in (1, 2))
    mean = (first.mean(dim=0) + second.mean(dim=0)) / 2
    plain, centred = F.cosine_similarity(first, second), F.cosine_similarity(first - mean, second - mean)
    return Consistency(float(plain.mean()), float(centred.mean()))


def random_view(image: Tensor, augmentation: str, settings: ViewSettings, seed: int, index: int, view: int) -> Tensor:
    """View number ``view`` of image number ``index``: [3, H, W] in [0, 1] from ``image`` [3, H, W]."""

    def draw(purpose: str) -> torch.Generator:
        return generator(seed, f"view-{purpose}", index, view)

    def chosen(name: str) -> bool:
        return augmentation in (name, "all")

    x = _random_resized_crop(image, settings, draw("crop"))
    if chosen("flip") and _uniform(0, 1, draw("flip")) < settings.flip_probability:
        x = x.flip(-1)
    if chosen("grayscale") and _uniform(0, 1, draw("grayscale")) < settings.grayscale_probability:
        luma = torch.tensor(_LUMA, dtype=x.dtype, device=x.device)
        x = (luma[:, None, None] * x).sum(dim=0).expand_as(x)
    blur = draw("blur")
    if chosen("blur") and _uniform(0, 1, blur) < settings.blur_probability:
        x = gaussian_blur(x, settings.blur_kernel, _uniform(*settings.blur_sigma, blur))
    return x


def _uniform(low: float, high: float, draw: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=draw, dtype=torch.float64))


def _random_resized_crop(image: Tensor, settings: ViewSettings, draw: torch.Generator) -> Tensor:
    """A crop of random area and log-uniform aspect ratio, resized to the image's own size.

    Ten tries as in torchvision; if all stick out of the image, the largest central crop of a fitting ratio.
    """
    height, width = image.shape[-2:]
    for _ in range(10):
        area = height * width * _uniform(*settings.crop_scale, draw)
        narrow, wide = settings.crop_ratio
        ratio = math.exp(_uniform(math.log(narrow), math.log(wide), draw))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 1 <= w <= width and 1 <= h <= height:
            top = int(torch.randint(height - h + 1, (), generator=draw))
            left = int(torch.randint(width - w + 1, (), generator=draw))
            break
    else:
        ratio = min(max(width / height, settings.crop_ratio[0]), settings.crop_ratio[1])
        w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
        top, left = (height - h) // 2, (width - w) // 2
    crop = image[None, :, top : top + h, left : left + w]
    resized = F.interpolate(crop, (height, width), mode="bilinear", align_corners=False)
    return resized[0].clamp(0, 1)


def gaussian_blur(image: Tensor, kernel: int, sigma: float) -> Tensor:
    """``image`` [C, H, W] blurred by a Gaussian of ``kernel`` (odd) taps, ``sigma`` in pixels."""
    radius = kernel // 2
    if radius >= min(image.shape[-2:]):
        raise ValueError(f"blur_kernel: {kernel} pixels reflect beyond an image of {tuple(image.shape[-2:])}; lower it")
    offset = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    taps = (-(offset**2) / (2 * sigma**2)).exp()
    taps = taps / taps.sum()
    x = F.pad(image[:, None], [radius] * 4, mode="reflect")
    return F.conv2d(F.conv2d(x, taps[None, None, :, None]), taps[None, None, None, :])[:, 0]


def knn_accuracy(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, k: int = 20) -> float:
    """Share of test rows whose k nearest training rows by cosine vote for the right class.

    Features [N, D], labels [N]. Plain majority; among equal votes the lowest class wins. ValueError if k is
    larger than N_train.
    """
    if not 1 <= k <= len(train_x):
        raise ValueError(f"knn_accuracy: k is {k} with {len(train_x)} training rows, expected 1 <= k <= rows")
    from sklearn.neighbors import KNeighborsClassifier

    classifier = KNeighborsClassifier(n_neighbors=k, metric="cosine", algorithm="brute")
    classifier.fit(_array(train_x), _array(train_y))
    return float(classifier.score(_array(test_x), _array(test_y)))


def linear_probe_accuracy(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, max_iterations: int = 2000) -> float:
    """Test accuracy of a multinomial logistic regression (L2, C = 1) on standardised features [N, D]."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=max_iterations))
    probe.fit(_array(train_x), _array(train_y))
    return float(probe.score(_array(test_x), _array(test_y)))


def token_similarity(z: Tensor, anchor: tuple[int, int]) -> Tensor:
    """Cosine [h, w] of token ``anchor`` = (row, column) with every token of a latent z [C, h, w]."""
    if z.ndim != 3 or not (0 <= anchor[0] < z.shape[1] and 0 <= anchor[1] < z.shape[2]):
        raise ValueError(f"token_similarity: anchor {anchor} in z {tuple(z.shape)}, expected a token of [C, h, w]")
    return F.cosine_similarity(z, z[:, anchor[0], anchor[1], None, None], dim=0)


def tsne(features: Tensor, seed: int, perplexity: float = 30.0) -> np.ndarray:
    """t-SNE embedding [N, 2] (float32) of features [N, D], started from their principal components."""
    from sklearn.manifold import TSNE

    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(_array(features))


def silhouette(features: Tensor, labels: Tensor) -> float:
    """Mean Euclidean silhouette coefficient of features [N, D] under labels [N], 1 being well separated."""
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(_array(features), _array(labels)))


def _array(x: Tensor) -> np.ndarray:
    return torch.as_tensor(x).detach().cpu().numpy()
