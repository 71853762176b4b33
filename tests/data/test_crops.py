"""Kept crops are the decoded images to the bit, and are not taken for those of other files."""

import shutil
import tempfile

import numpy as np
import pytest
from photos import config, folder, photo

from reals import files
from reals.data import crops
from reals.data.dataset import CROPS, Images
from reals.data.folder import SPLITS
from reals.data.local_copy import local_copy
from reals.data.prepare import prepare


@pytest.fixture
def prepared(tmp_path):
    prepare(config(folder(tmp_path / "in"), storage="files"), 0, tmp_path / "out")
    return tmp_path / "out"


def test_kept_crops_are_read_in_place_of_the_files(prepared, tmp_path):
    decoded = {split: Images(prepared, split).batch(np.arange(6)) for split in SPLITS}
    manifest = (prepared / files.MANIFEST).read_bytes()
    crops.keep(prepared)
    assert (prepared / files.MANIFEST).read_bytes() == manifest  # no id and no fingerprint changes
    shutil.rmtree(tmp_path / "in")
    for split in SPLITS:
        kept = Images(prepared, split)
        assert kept.stored and np.array_equal(kept.batch(np.arange(6)), decoded[split])
        assert kept.fingerprint() == files.fingerprint(files.opened(prepared))
    made = (prepared / CROPS / files.MANIFEST).stat().st_mtime_ns
    crops.keep(prepared)
    assert (prepared / CROPS / files.MANIFEST).stat().st_mtime_ns == made  # there is nothing to do


def test_crops_of_other_files_and_cut_ones_are_not_used(prepared, tmp_path, capsys):
    crops.keep(prepared)
    photo(tmp_path / "in" / "ant" / "new.png")
    other = tmp_path / "other"
    prepare(config(tmp_path / "in", storage="files"), 0, other)
    shutil.copytree(prepared / CROPS, other / CROPS)
    assert not Images(other, "train").stored
    assert "other files" in capsys.readouterr().err
    crops.keep(other)
    assert Images(other, "train").stored
    stored = other / CROPS / "train_images.npy"
    stored.write_bytes(stored.read_bytes()[:-1])
    assert not Images(other, "train").stored
    assert "expected" in capsys.readouterr().err


def test_damaged_crops_are_not_copied_but_decoded_too(prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    crops.keep(prepared)
    stored = prepared / CROPS / "train_images.npy"
    whole = stored.read_bytes()
    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-1]):
        stored.write_bytes(damaged)
        assert not Images(prepared, "train", near=local_copy).stored
        assert "images decoded" in capsys.readouterr().err
    stored.write_bytes(whole)
    assert Images(prepared, "train", near=local_copy).stored and (tmp_path / "scratch").is_dir()


def test_crops_that_do_not_fit_are_refused_before_any_is_made(prepared, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(ValueError, match=r"crops take 9\.2 kB, the disk has 10 bytes free.*keep_crops: false"):
        crops.keep(prepared)
    assert not (prepared / CROPS).exists()


def test_a_file_in_their_place_is_named(prepared):
    (prepared / CROPS).touch()
    with pytest.raises(ValueError, match="crops: is no folder; move it away and run again"):
        crops.keep(prepared)
