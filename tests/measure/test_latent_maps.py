"""The anchor of a token map lies on the object."""

import numpy as np

from reals.measure.latent_maps import anchor


def test_the_anchor_lies_on_the_object():
    image = np.zeros((3, 32, 32), np.uint8)
    image[:, 13:15, 20:23] = 255
    assert anchor(image, 8) == (3, 5)
