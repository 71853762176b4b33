"""PSNR, SSIM and bytes: closed forms and parity with scikit-image."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from reals.measure.metrics.reconstruction import psnr, ssim, ssim_paper
from reals.method.models.autoencoder import to_uint8
from reals.rng import generator


def pair(n: int = 3, size: tuple[int, int] = (24, 29), noise: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    draw = generator(0, "test")
    smooth = torch.nn.functional.interpolate(torch.rand(n, 3, 5, 5, generator=draw), size, mode="bilinear")
    return smooth, (smooth + noise * torch.randn(smooth.shape, generator=draw)).clamp(0, 1)


def test_bytes_are_the_rounding_of_dit_and_sit():
    levels = torch.arange(256)
    assert torch.equal(to_uint8((levels / 127.5 - 1).double()), levels.to(torch.uint8))
    x = torch.linspace(-1.1, 1.1, 100_001, dtype=torch.float64)
    half_up = torch.floor((x.clamp(-1, 1) + 1) * 127.5 + 0.5).to(torch.uint8)
    assert torch.equal(to_uint8(x), half_up)
    repa = ((x.clamp(-1, 1) + 1) * 127.5).to(torch.uint8)
    darker = to_uint8(x).int() - repa.int()
    assert set(darker.unique().tolist()) == {0, 1} and 0.4 < darker.double().mean() < 0.5


def test_bytes_of_nan_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(torch.tensor([0.0, float("nan")]))


def test_psnr_closed_forms():
    x = torch.full((2, 3, 4, 4), 0.5)
    y = x + torch.tensor([0.1, 0.0])[:, None, None, None]
    assert psnr(x, y).tolist() == pytest.approx([20.0, float("inf")], rel=1e-6)


def test_psnr_is_scikit_images():
    x, y = pair()
    ours = psnr(x, y)
    for a, b, value in zip(x.double().numpy(), y.double().numpy(), ours, strict=True):
        assert float(value) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1.0), rel=1e-12)


@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_both_ssims_are_scikit_images(noise):
    x, y = pair(noise=noise)
    standard = {"data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    for ours, settings in ((ssim, standard), (ssim_paper, {"data_range": 2.0})):
        theirs = [
            structural_similarity(a, b, channel_axis=0, **settings)
            for a, b in zip(x.double().numpy(), y.double().numpy(), strict=True)
        ]
        np.testing.assert_allclose(ours(x, y), theirs, rtol=1e-9)


def test_ssim_is_one_for_equal_images_and_symmetric_and_the_papers_is_higher():
    x, y = pair()
    assert ssim(x, x).tolist() == pytest.approx([1, 1, 1], abs=1e-12)
    torch.testing.assert_close(ssim(x, y), ssim(y, x), rtol=1e-12, atol=0)
    assert (ssim_paper(x, y) > ssim(x, y)).all()


def test_values_are_per_image():
    x, y = pair(n=4)
    for metric in (psnr, ssim, ssim_paper):
        torch.testing.assert_close(metric(x, y)[2:3], metric(x[2:3], y[2:3]), rtol=1e-12, atol=0)


def test_wrong_ranges_and_shapes_are_refused():
    x, y = pair()
    with pytest.raises(ValueError, match=r"reconstruction: .* expected floating in"):
        psnr(x, 2 * y - 1)
    with pytest.raises(ValueError, match=r"reference: .* divide bytes by 255"):
        psnr((255 * x).to(torch.uint8), y)
    with pytest.raises(ValueError, match="H and W >= 11"):
        ssim(x[..., :10], y[..., :10])
    with pytest.raises(ValueError, match="two equal"):
        psnr(x, y[:1])
    with pytest.raises(ValueError, match="expected floating in"):
        psnr(x, y * float("nan"))
