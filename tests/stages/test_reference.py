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
from reals.measure.metrics.generation import distance, generation_metrics
from reals.measure.metrics.kernel import cmmd
from reals.planning import pretrained
from reals.planning.counts import counts
from reals.planning.networks import Networks
from reals.planning.preflight.weights import stated_files
from reals.stages import (
    data,
    evaluate,
    extractor,
    inputs,
    reference,
)
from reals.stages.context import Context


@pytest.mark.slow
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
    extractor.run(context, r.judges["fid_second"])
    assert r.judges["fid_second"].id != r.extractor.id and "other-cnn" in r.judge_references["fid_second"].id
    reference.run(context, r.reference)
    reference.run(context, r.judge_references["fid_second"])
    evaluation = r.evaluations["sit-b2-reals_400K"]
    assert [n.kind for n in evaluation.needs] == ["samples", "reference", "reference"]
    second = inputs.load_extractor(context, r.judges["fid_second"])
    assert second.network.config.blocks == 2
    real = inputs.load_reference(context, r.judge_references["fid_second"])
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


@pytest.mark.slow
def test_judges_measure_the_same_samples_each_on_its_own_features(project):
    """FD-DINOv2 and CMMD by small stand-ins, and FID's interval; a scale without them has the ids that it had."""
    path = project / "config/scales/smoke.yaml"
    edit(path, "images_per_class: 40", "images_per_class: 10")
    plain = registry.Registry(load("smoke"))
    tiny = "kind: small-cnn, width: 4, steps: 2, batch: 8, lr: 1.0e-3"
    edit(
        path, "  pr_reference: 100",
        f"  fd_dinov2: {{{tiny}, name: a-cnn, seed: 7}}\n  cmmd: {{{tiny}, name: b-cnn, seed: 8}}\n  intervals: true\n  pr_reference: 12",
    )  # fmt: skip
    context = Context(registry.Registry(load("smoke")))
    r = context.registry
    assert r.extractor.id == plain.extractor.id and list(r.judges) == ["fd_dinov2", "cmmd"]
    evaluation = r.evaluations["sit-b2-reals_400K"]
    assert evaluation.id != plain.evaluations["sit-b2-reals_400K"].id
    data.run(context, r.data)
    for made in (r.extractor, *r.judges.values()):
        extractor.run(context, made)
    for made in (r.reference, *r.judge_references.values()):
        reference.run(context, made)
    images = context.images("train")
    shards = [images.batch(np.arange(0, 30)), images.batch(np.arange(30, 50))]
    real = inputs.load_reference(context, r.reference)
    values = evaluate.measured(context, evaluation, shards, real)
    found = {
        m: extract(inputs.load_extractor(context, judge), map(torch.from_numpy, shards)).pool for m, judge in r.judges.items()
    }
    beside = {m: inputs.load_reference(context, made) for m, made in r.judge_references.items()}
    assert values["fd_dinov2"] == pytest.approx(distance(found["fd_dinov2"], beside["fd_dinov2"].pool), rel=1e-5)
    assert values["cmmd"] == pytest.approx(cmmd(found["cmmd"], beside["cmmd"].features), rel=1e-5)
    assert (beside["fd_dinov2"].pool.n, beside["cmmd"].pool.n) == (len(images), 12), "CMMD looks at the chosen images alone"
    assert 0 < values["fid_interval"]
    said = evaluate.protocol(context, evaluation, real, values)
    assert said["FD-DINOv2"] == f"a-cnn, against {len(images)} training images" and said["FID ±"].startswith("half of the 95%")
    assert said["CMMD"] == "b-cnn, against 12 training images, Gaussian kernel of sigma 10, biased"


def test_published_judges_are_named_priced_and_fetched(project):
    edit(project / "config/scales/imagenet100.yaml", "  # fd_dinov2: {", "  fd_dinov2: {")
    edit(project / "config/scales/imagenet100.yaml", "  # cmmd: {", "  cmmd: {")
    r = registry.Registry(load("imagenet100"))
    assert [a.spec.model for a in r.judges.values()] == [
        "vit_large_patch14_dinov2.lvd142m", "vit_large_patch14_clip_quickgelu_336.openai"
    ]  # fmt: skip
    networks = Networks(r, counts(r))
    flops = [networks.extractor_flops(a) for a in r.judges.values()]
    assert flops[0] == pytest.approx(2 * 81e9, rel=0.05) and flops[1] == pytest.approx(2 * 191e9, rel=0.05)
    needed = pretrained.needed(r.experiment.scale)
    assert [needed[f"evaluation.{key}"]()[0].place for key in ("fd_dinov2", "cmmd")] == [
        "timm/vit_large_patch14_dinov2.lvd142m/model.safetensors", "timm/vit_large_patch14_clip_336.openai/model.safetensors"
    ]  # fmt: skip
    keys = {stated.key for stated in stated_files(r)}
    assert not keys & {"evaluation.fd_dinov2.weights", "evaluation.cmmd.weights"}
    edit(project / "config/scales/imagenet100.yaml", "{kind: dinov2}", "{kind: dinov2, weights: no.pth}")
    r = registry.Registry(load("imagenet100"))
    with pytest.raises(ValueError, match=r"evaluation.fd_dinov2.weights: no.pth: no such file"):
        extractor.run(Context(r), r.judges["fd_dinov2"])
    assert "evaluation.fd_dinov2.weights" in {stated.key for stated in stated_files(r)}


@pytest.mark.slow
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
