"""Cached features are the online ones, to the cache's precision."""

import numpy as np
import torch
from conftest import edit

from reals.data import readers
from reals.experiment import registry
from reals.experiment.load import load
from reals.method.models import teacher as teachers
from reals.stages import (
    features,
    teacher,
)
from reals.stages.context import Context


def test_cached_and_online_features_agree_to_the_caches_precision(context):
    r = context.registry
    teacher.run(context, r.teachers["large"])
    features.run(context, r.features["large"])
    cached = readers.CachedFeatures(context.folder(r.features["large"]))
    online = teachers.OnlineFeatures.of(context.folder(r.teachers["large"]), context.device)
    indices, flips = np.array([3, 11, 3, 40]), np.array([True, False, False, True])
    pixels = torch.from_numpy(context.images("train").batch(indices, flips))
    for a, b in zip(cached(indices, flips, None), online(indices, flips, pixels), strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=2**-10, atol=2**-10)
    assert not torch.equal(cached(indices, flips, None)[0][0], cached(indices, flips, None)[0][2])


def test_cls_tokens_alone_can_be_cached(context, project):
    edit(project / "config/scales/smoke.yaml", "features: cached", "features: cls")
    r = registry.Registry(load("smoke"))
    context = Context(r)
    # What needs patches computes them; what is aligned to the cls token alone reads it.
    assert next(a.kind for a in r.autoencoders["reals"].needs if a.kind != "data") == "teacher"
    teacher.run(context, r.teachers["large"])
    features.run(context, r.features["large"])
    folder = context.folder(r.features["large"])
    assert sorted(p.name for p in folder.glob("*.npy")) == ["cls_00000.npy"]
    cached = readers.CachedFeatures(folder)
    online = teachers.OnlineFeatures.of(context.folder(r.teachers["large"]), context.device)
    indices, flips = np.array([3, 11]), np.array([True, False])
    pixels = torch.from_numpy(context.images("train").batch(indices, flips))
    patches, cls = cached(indices, flips, None)
    assert patches.shape == (2, 0, cached.dim)
    torch.testing.assert_close(cls, online(indices, flips, pixels)[1], rtol=2**-10, atol=2**-10)
