import numpy as np
import pytest
from drawn import DPI
from matplotlib.image import imread

from reals.report.figures import image_grids


@pytest.mark.slow
def test_figure3_keeps_order_and_colour(tmp_path):
    tints = np.random.default_rng(0).integers(0, 200, (7, 3), dtype=np.uint8)
    samples = np.broadcast_to(tints[:, None, None], (7, 4, 4, 3))
    picture = np.round(255 * imread(image_grids.samples(samples, tmp_path / "grid", columns=4)[1])).astype(int)
    height, width = picture.shape[:2]
    for k, tint in enumerate(tints):
        row, column = divmod(k, 4)
        centre = picture[int((row + 0.5) * height / 2), int((column + 0.5) * width / 4), :3]
        assert np.array_equal(centre, tint)
    assert (picture[int(0.75 * height), int(0.875 * width), :3] == 255).all()


@pytest.mark.slow
def test_figure4_shows_masks_below_images(tmp_path):
    rng = np.random.default_rng(0)
    images = np.full((3, 8, 8, 3), 128, np.uint8)
    mask = np.stack([np.zeros((8, 8)), np.ones((8, 8)), np.zeros((8, 8))])
    picture = imread(image_grids.read_from_latents(images, tmp_path / "figure4", mask=mask, depth=rng.random((3, 8, 8)))[1])
    left, cell = 0.2, (6.75 - 0.2 - 0.5) / 3
    centres = [int(DPI * (left + (k + 0.5) * cell)) for k in range(3)]
    middle = picture[picture.shape[0] // 2, centres, 0]
    assert middle == pytest.approx([0, 1, 0], abs=0.01)
    assert picture[picture.shape[0] // 6, centres, 0] == pytest.approx([128 / 255] * 3, abs=0.01)


@pytest.mark.slow
def test_rows_of_images_keep_names_and_order(tmp_path):
    rows = {name: np.full((4, 8, 8, 3), shade, np.uint8) for name, shade in (("image", 40), ("sd-vae", 120), ("reals", 200))}
    picture = imread(image_grids.rows_of_images(rows, tmp_path / "rows", columns=3)[1])
    for k, shade in enumerate((40, 120, 200)):
        centre = picture[int((k + 0.5) * picture.shape[0] / 3), -60, 0]
        assert centre == pytest.approx(shade / 255, abs=0.01)
