import numpy as np
import pytest
from drawn import DPI, text_of, width_in_inches
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from reals.report.figures import latent_spaces
from reals.report.figures.latent_spaces import Latents


@pytest.mark.slow
def test_figure1_marks_the_anchor_and_spans_the_page(tmp_path):
    latents = some_latents()
    paths = latent_spaces.draw({"SD-VAE": latents, "ReaLS": latents}, tmp_path / "figure1", rows=2)
    assert [p.name for p in paths] == ["figure1.pdf", "figure1.png"]
    assert width_in_inches(paths[1]) == pytest.approx(6.75, abs=0.01)
    picture = imread(paths[1])[..., :3]
    anchor = np.abs(picture - to_rgb("#D55E00")).max(-1) < 0.02
    rows = np.flatnonzero(anchor.any(1))
    assert rows.size
    assert rows[0] < picture.shape[0] / 4


def test_figure1_refuses_different_images(tmp_path):
    one, other = some_latents(), some_latents()
    other.images[0, 0, 0] = 9
    with pytest.raises(ValueError, match="'ReaLS' and 'SD-VAE' differ in images or anchors"):
        latent_spaces.draw({"SD-VAE": one, "ReaLS": other}, tmp_path / "figure1")


def some_latents():
    rng = np.random.default_rng(0)
    return Latents(
        tsne=rng.normal(size=(40, 2)).astype(np.float32),
        labels=rng.integers(0, 4, 40),
        images=np.zeros((3, 8, 8, 3), np.uint8),
        reconstructions=np.zeros((3, 8, 8, 3), np.uint8),
        maps=rng.uniform(-1, 1, (3, 4, 4)).astype(np.float32),
        anchors=np.array([[0, 0], [1, 2], [3, 3]]),
    )


@pytest.mark.slow
def test_scores_stand_below_the_tsne_they_belong_to(tmp_path):
    latents = {"SD-VAE": some_latents(), "ReaLS": some_latents()}
    plain = imread(latent_spaces.draw(latents, tmp_path / "plain")[1])
    paths = latent_spaces.draw(latents, tmp_path / "scored", scores={"ReaLS": {"k-NN": 0.25}})
    scored = imread(paths[1])
    assert scored.shape[0] - plain.shape[0] == pytest.approx(0.14 * DPI, abs=2)
    assert "k-NN 0.25" in text_of(paths[0])
