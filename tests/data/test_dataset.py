"""A prepared split is read by index, ahead of its use, and where its files are now."""

import numpy as np
from photos import config, folder

from reals.data.dataset import Images
from reals.data.prepare import prepare


def test_files_that_moved_are_read_where_they_are_now(tmp_path, monkeypatch):
    root = folder(tmp_path / "in")
    prepare(config(root, storage="files"), 0, tmp_path / "out")
    before = Images(tmp_path / "out", "train").batch([0, 3])
    root.rename(tmp_path / "moved")
    folder(root, classes=("bee", "ant"))  # other pixels under the same names
    assert np.array_equal(Images(tmp_path / "out", "train", tmp_path / "moved").batch([0, 3]), before)
    prepare(config(None, source="procedural", storage="files", held_out=None), 0, tmp_path / "painted")
    (tmp_path / "painted").rename(tmp_path / "elsewhere")
    assert Images(tmp_path / "elsewhere", "train").batch([0]).shape == (1, 3, 16, 16)


def test_batches_ahead_are_the_batches(tmp_path):
    prepare(config(folder(tmp_path / "in"), storage="files"), 0, tmp_path / "out")
    train = Images(tmp_path / "out", "train")
    some = [np.array([0, 3]), np.array([5]), np.array([1, 2, 4]), np.array([0])]
    for wanted, (indices, pixels) in zip(some, train.ahead(some), strict=True):
        assert np.array_equal(indices, wanted)
        assert np.array_equal(pixels, train.batch(wanted))
    assert list(train.ahead([])) == []
