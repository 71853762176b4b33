"""Caches and samples are computed in the precision that the scale states."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import edit
from torch.nn.modules.module import register_module_forward_hook

from reals import files, rng
from reals.data.readers import CachedFeatures, Latents
from reals.experiment.load import load
from reals.experiment.protocol import protocol
from reals.experiment.registry import Registry
from reals.machine import compiler
from reals.method.models.transformer import Transformer, TransformerConfig, initialise
from reals.stages import autoencoder, features, latents, sample, teacher
from reals.stages.context import Context

Products = set[tuple[torch.dtype, bool]]
"""What products came out as, and whether TF32 was allowed for them."""
EXPECTED = {"tf32": {(torch.float32, True)}, "bf16": {(torch.bfloat16, False)}}


def products(act: Callable[[], object]) -> Products:
    """Of all linear layers and convolutions that ``act`` calls."""
    seen: Products = set()

    def note(module: torch.nn.Module, given: object, out: object) -> None:
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) and isinstance(out, torch.Tensor):
            seen.add((out.dtype, torch.backends.cudnn.allow_tf32 and torch.get_float32_matmul_precision() == "high"))

    handle = register_module_forward_hook(note)
    try:
        act()
    finally:
        handle.remove()
    return seen


@pytest.fixture(autouse=True)
def _as_a_stage_starts(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def stating(project, encoding: str, sampling: str) -> Context:
    """The smoke scale with these precisions."""
    path = project / "config/scales/smoke.yaml"
    edit(path, "sampling: {", f"encoding: {{precision: {encoding}}}\nsampling: {{precision: {sampling}, ")
    return Context(Registry(load("smoke")))


def drawn_by(monkeypatch, context: Context) -> Callable[[], None]:
    """A shard of samples by an untrained transformer."""
    r = context.registry
    samples = next(iter(r.samples.values()))
    spec = samples.needed("run").spec
    config = TransformerConfig(
        width=16, depth=1, heads=2, patch=spec.patch, latent_channels=4, latent_size=8, classes=10, learn_sigma=True
    )  # fmt: skip
    model = Transformer(config)
    initialise(model, rng.generator(0, "weights"))
    monkeypatch.setattr(
        sample, "load_transformer", lambda path, device: (model.eval(), {"family": spec.family, "scaling_factor": 1.0})
    )
    monkeypatch.setattr(files, "refuse_other_copy", lambda *a: None)
    return lambda: sample.run(context, samples, 0)


@pytest.mark.slow
def test_encoder_teacher_transformer_and_decoder_compute_in_the_stated_precision(context, project, monkeypatch):
    r = context.registry
    autoencoder.run(context, r.autoencoders["sd-vae"])
    teacher.run(context, r.teachers["large"])
    latents.run(context, r.latents["sd-vae"])
    plain = Latents(context.folder(r.latents["sd-vae"])).rows("moments", [0, 1], np.zeros(2, int))

    stated = stating(project, "bf16", "tf32")
    r = stated.registry
    assert products(lambda: latents.run(stated, r.latents["sd-vae"])) == EXPECTED["bf16"]
    assert products(lambda: features.run(stated, r.features["large"])) == EXPECTED["bf16"]
    assert products(drawn_by(monkeypatch, stated)) == EXPECTED["tf32"]
    rounded = Latents(stated.folder(r.latents["sd-vae"])).rows("moments", [0, 1], np.zeros(2, int))
    assert 0 < np.abs(rounded - plain).max() < 0.05 * np.abs(plain).max()
    assert len(CachedFeatures(stated.folder(r.features["large"])))

    edit(
        project / "config/scales/smoke.yaml",
        "sampling: {precision: tf32, ",
        "engine: {compile: true}\nsampling: {precision: bf16, ",
    )
    stated, compiled = Context(Registry(load("smoke"))), []
    monkeypatch.setattr(compiler, "missing", lambda gpu: [])
    monkeypatch.setattr(Transformer, "compile", lambda model: compiled.append(model))
    assert products(drawn_by(monkeypatch, stated)) == EXPECTED["bf16"]
    assert len(compiled) == 1


def test_what_is_computed_in_another_precision_has_another_id_and_says_so(project):
    before = Registry(load("smoke"))
    after = stating(project, "bf16", "tf32").registry
    edit(project / "config/scales/smoke.yaml", "{precision: bf16}", "{precision: fp32}")
    edit(project / "config/scales/smoke.yaml", "{precision: tf32, ", "{precision: fp32, ")
    assert [a.id for a in Registry(load("smoke")).all()] == [a.id for a in before.all()]
    changed = {new.kind for old, new in zip(before.all(), after.all(), strict=True) if old.id != new.id}
    assert changed == {"features", "latents", "autoencoder", "run", "samples", "evaluation", "analysis", "downstream"}
    assert before.autoencoders["sd-vae"].id == after.autoencoders["sd-vae"].id  # aligned with no features
    assert protocol(after)["sampler"] == protocol(before)["sampler"] + ", tf32"
