"""The look before a workflow starts: what no job left reads may be gone."""

import pytest
from conftest import edit

from reals import files
from reals.experiment.load import load
from reals.experiment.reading import ConfigError
from reals.experiment.registry import Registry
from reals.planning.preflight import checks

VIT = "base: {kind: trained, name: digits-vit-b, width: 16, depth: 1, heads: 4, patch: 4, steps: 4, batch: 16, lr: 1.0e-3, seed: 12}"


BASE = "sd-vae: {kind: trained, steps: 3, batch: 8, lr: 1.0e-3, lambda_k: 1.0e-6}"


@pytest.mark.parametrize(
    ("old", "new", "made", "says"),
    [
        ("  extractor:", "  reference: gone.npz\n  extractor:", lambda r: [r.reference], "evaluation.reference: gone.npz"),
        (BASE, "sd-vae: {kind: diffusers, path: gone/for/good}", lambda r: [r.autoencoders["sd-vae"]], "bases.sd-vae.path: gone/for"),
        (VIT, "base: {kind: timm, name: b, model: vit_small_patch14_dinov2, patch: 14, weights: gone.pth}",
         lambda r: [r.teachers["base"]], "teachers.base.weights: gone.pth"),
        ("{net: alex, backbone: random}", "{net: alex, backbone: pretrained, weights: gone.pth}",
         lambda r: [*r.autoencoders.values(), *r.analyses.values()], "autoencoder.lpips.weights: gone.pth"),
    ],
    ids=["reference", "base", "teacher", "lpips"],
)  # fmt: skip
def test_a_file_that_no_job_left_reads_may_be_gone(project, old, new, made, says):
    edit(project / "config/scales/smoke.yaml", old, new)
    registry = Registry(load("smoke"))
    with pytest.raises(ConfigError, match=says):
        checks.at_start(registry)
    for artefact in made(registry):
        for output in registry.outputs(artefact):
            files.write_json(output, {})
    checks.at_start(registry)
    gone = [look() for what, look in checks.thorough(registry, None, "") if says.startswith(f"{what}: ")]
    assert all("is gone, and nothing that is left to make reads it" in line for line in gone)


def test_a_base_whose_latents_cannot_be_scaled_is_refused_before_the_first_job(project):
    files.write_json(project / "given/config.json", {"latents_mean": [0.1, 0, 0], "latents_std": [1, 1, 1, 1]})
    edit(project / "config/scales/smoke.yaml", BASE, "sd-vae: {kind: diffusers, path: given}")
    with pytest.raises(ConfigError, match=r"bases.sd-vae.path: given/config.json: has latents_mean \[0.1, 0, 0\]"):
        checks.at_start(Registry(load("smoke")))
