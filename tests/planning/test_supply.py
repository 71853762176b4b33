"""What timed steps read: the experiment's own files where they are, else files of the right format."""

import numpy as np
import pytest

from reals.data import prepare
from reals.data.dataset import Images
from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.planning.supply import Supply


@pytest.fixture
def registry(project):
    return Registry(load("smoke"))


def run_of(registry, repa):
    return next(run for run in registry.runs.values() if (run.spec.repa is not None) == repa)


def test_stand_ins_are_read_by_the_readers_themselves(registry, tmp_path):
    supply = Supply(registry, tmp_path)
    sources = supply.sources(run_of(registry, repa=True))
    indices, flips = np.arange(3), np.zeros(3, bool)
    assert sources.images.batch(indices).shape == (3, 3, 32, 32) and len(sources.images) == len(sources.latents) == supply.rows
    patches, cls = sources.features(indices, flips, None)
    assert patches.shape[:2] == (3, 64) and cls.shape[1] == patches.shape[2]
    assert all(source.startswith("stand-ins") for source in supply.said.values())


def test_where_the_scale_decodes_as_it_goes_the_stand_ins_are_larger_files(registry, tmp_path, monkeypatch):
    monkeypatch.setitem(registry.experiment.scale.data.__dict__, "storage", "files")
    supply = Supply(registry, tmp_path)
    images = supply.images("train")
    assert images.batch([0, 1]).shape == (2, 3, 32, 32)
    assert (images.batch([0]) != images.batch([1])).any()
    assert supply.said["images"] == "stand-ins: 64 painted JPEG files of 62 x 47"


@pytest.mark.slow
def test_what_is_prepared_is_read(registry, tmp_path):
    folder = registry.folder(registry.data)
    prepare.prepare(registry.experiment.scale.data, 0, folder)
    supply = Supply(registry, tmp_path)
    sources = supply.sources(run_of(registry, repa=False))
    assert supply.said["images"] == str(folder) and len(sources.images) == len(Images(folder, "train"))
    assert supply.said["latents"].startswith("stand-ins")
