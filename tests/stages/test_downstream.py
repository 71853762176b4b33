"""The gallery is as long as the scale shows."""

import numpy as np
import pytest

from reals import files
from reals.stages import (
    downstream,
)


def test_a_gallery_is_cut_to_what_the_scale_shows_and_never_too_short(tmp_path):
    arrays = {"latents": np.arange(8.0), "images": np.arange(8), "labels": np.arange(8)}
    np.savez(tmp_path / "gallery.npz", **arrays)
    z, images, labels = downstream.gallery(tmp_path, 5)
    assert z.tolist() == images.tolist() == labels.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(files.MissingArtefact, match="gallery was 8 images, now it is 9"):
        downstream.gallery(tmp_path, 9)
