"""How close reconstructions are to their images, pixel by pixel, and how images become bytes."""

import torch
import torch.nn.functional as F
from torch import Tensor

_K1, _K2 = 0.01, 0.03  # Wang et al. 2004


def psnr(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB (peak 1) of image pairs [N, C, H, W] in [0, 1]: float64 [N]."""
    _check(reference, reconstruction, window=1)
    mse = (reference.double() - reconstruction.double()).square().mean(dim=(1, 2, 3))
    return -10 * mse.log10()


def ssim(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Structural similarity of each image pair [N, C, H, W] in [0, 1]: float64 [N]. Wang et al. 2004.

    Gaussian window of 11 pixels, sigma 1.5, data range 1, biased moments, mean over channels and all whole
    windows.
    """
    offset = torch.arange(-5, 6, dtype=torch.float64, device=reference.device)
    window = (-(offset**2) / (2 * 1.5**2)).exp()
    return _ssim(reference, reconstruction, window / window.sum(), data_range=1.0, correction=1.0)


def ssim_paper(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Structural similarity as in the paper's Table 8, for image pairs [N, C, H, W] in [0, 1]: float64 [N].

    Its baseline rows are those of LlamaGen, whose script calls scikit-image with the uniform 7 x 7 window,
    unbiased moments and data range 2 on images in [0, 1]. The doubled range inflates the value: never compare
    it with :func:`ssim`.
    """
    window = torch.full((7,), 1 / 7, dtype=torch.float64, device=reference.device)
    return _ssim(reference, reconstruction, window, data_range=2.0, correction=49 / 48)


def _ssim(x: Tensor, y: Tensor, window: Tensor, data_range: float, correction: float) -> Tensor:
    _check(x, y, window=len(window))
    x, y = x.double(), y.double()
    n = len(x)
    local = _windowed(torch.cat([x, y, x * x, y * y, x * y]), window)
    mu_x, mu_y, xx, yy, xy = local.split(n)
    var_x, var_y = correction * (xx - mu_x * mu_x), correction * (yy - mu_y * mu_y)
    cov = correction * (xy - mu_x * mu_y)
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    similarity = (2 * mu_x * mu_y + c1) * (2 * cov + c2) / ((mu_x**2 + mu_y**2 + c1) * (var_x + var_y + c2))
    return similarity.mean(dim=(1, 2, 3))


def _windowed(images: Tensor, window: Tensor) -> Tensor:
    """Weighted mean over each whole window of images [N, C, H, W], separably."""
    n, c, h, w = images.shape
    flat = images.reshape(n * c, 1, h, w)
    flat = F.conv2d(F.conv2d(flat, window[None, None, :, None]), window[None, None, None, :])
    return flat.reshape(n, c, *flat.shape[-2:])


def _check(reference: Tensor, reconstruction: Tensor, window: int) -> None:
    shape = tuple(reference.shape)
    if shape != tuple(reconstruction.shape) or len(shape) != 4 or min(shape[2:]) < window:
        raise ValueError(
            f"images {shape} and {tuple(reconstruction.shape)}: expected two equal [N, C, H, W], H and W >= {window}"
        )
    for name, images in (("reference", reference), ("reconstruction", reconstruction)):
        if not images.is_floating_point() or not (0 <= images.min() and images.max() <= 1):
            raise ValueError(
                f"{name}: {images.dtype} from {images.min():.4g} to {images.max():.4g}, "
                "expected floating in [0, 1]; divide bytes by 255"
            )
