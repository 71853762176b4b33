"""Each feature extractor has a reference of its own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, edit

from reals import rng
from reals.experiment import registry
from reals.experiment.load import load
from reals.measure.extractor import extract
from reals.measure.features import batches
from reals.measure.metrics.generation import generation_metrics
from reals.stages import (
    data,
    evaluate,
    extractor,
    inputs,
    reference,
)
from reals.stages.context import Context


def test_a_second_extractor_measures_the_same_samples_with_its_own_reference(project):
    edit(
        project / "config/scales/smoke.yaml", "  pr_reference:",
        "  second: {kind: small-cnn, name: other-cnn, width: 4, blocks: 2, steps: 2, batch: 8, lr: 1.0e-3, seed: 99}\n  pr_reference:",
    )  # fmt: skip
    edit(project / "config/scales/smoke.yaml", "images_per_class: 40", "images_per_class: 10")
    context = Context(registry.Registry(load("smoke")))
    r = context.registry
    data.run(context, r.data)
    extractor.run(context, r.extractor)
    extractor.run(context, r.second_extractor)
    assert r.second_extractor.id != r.extractor.id and "other-cnn" in r.second_reference.id
    reference.run(context, r.reference)
    reference.run(context, r.second_reference)
    evaluation = r.evaluations["sit-b2-reals_400K"]
    assert [n.kind for n in evaluation.needs] == ["samples", "reference", "reference"]
    second = inputs.load_extractor(context, r.second_extractor)
    assert second.network.config.blocks == 2
    real = inputs.load_reference(context, r.second_reference)
    images = context.images("train")
    found = extract(second, batches(images))
    assert generation_metrics(found, real, pr_reference=0)["fid"] == pytest.approx(0, abs=1e-6)
    plain = registry.Registry(load("demo")).evaluations["sit-b2-reals_400K"]
    assert "second" not in plain.identity
    # The scale asks for 100 images for precision and recall, splits of 5000 and subsets of 1000; there are 80 images and 24 samples.
    every = {"fid": 1.0, "is": 1.0, "precision": 1.0, "recall": 1.0, "kid": 1.0}
    said = evaluate.protocol(context, evaluation, inputs.load_reference(context, r.reference), every)
    assert context.scale.evaluation.pr_reference == 100
    assert said["precision and recall"] == "k = 3, 80 reference images against 24 samples"
    assert said["IS"] == "one split of 24, in file order" and said["KID"] == "100 subsets of 12, cubic kernel"


def test_the_analysis_seed_chooses_the_images_of_precision_and_recall(project):
    scale = project / "config/scales/smoke.yaml"
    edit(scale, "pr_reference: 100", "pr_reference: 12")
    context = Context(registry.Registry(load("smoke")))
    r = context.registry
    data.run(context, r.data)
    extractor.run(context, r.extractor)
    reference.run(context, r.reference)
    images, seed = context.images("train"), context.scale.seeds.analysis
    rows = rng.permutation(seed, "reference features", n=len(images))[:12]
    kept = inputs.load_reference(context, r.reference).features
    every = extract(inputs.load_extractor(context), batches(images)).pool
    assert torch.equal(kept, every[np.sort(rows)])
    other = registry.Registry(load("smoke", seed=seed + 1)).reference
    assert other.spec == replace(r.reference.spec, seed=seed + 1) and other.id != r.reference.id


def test_a_published_reference_has_no_choice_and_no_seed():
    assert registry.Registry(load("imagenet256", folder=REPOSITORY / "config")).reference.spec.seed is None
