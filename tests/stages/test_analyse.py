"""What is measured of an autoencoder does not depend on how it is paged."""

import numpy as np
import pytest
import torch
from conftest import edit

from reals.experiment import registry
from reals.experiment.load import load
from reals.measure import reconstruction
from reals.method.models import autoencoder as models
from reals.method.models.lpips import lpips_network
from reals.planning import cost
from reals.stages import (
    autoencoder,
    extractor,
    inputs,
)


def test_reconstruction_is_measured_in_pages_on_as_many_images_as_the_scale_says(context, monkeypatch, project):
    r = context.registry
    autoencoder.run(context, r.autoencoders["sd-vae"])
    extractor.run(context, r.extractor)
    vae, held_out = models.load(context.folder(r.autoencoders["sd-vae"])), context.images("held_out")
    indices = np.arange(len(held_out))[::-1].copy()
    config = context.scale.autoencoder.lpips
    lpips = lpips_network(config.net, config.backbone, config.weights)

    def measured() -> dict[str, float]:
        extractor, seed = inputs.load_extractor(context), context.scale.seeds.analysis
        return reconstruction.reconstruction_scores(vae, held_out, indices, lpips, extractor, seed)

    with torch.no_grad():
        whole = measured()
        monkeypatch.setattr(reconstruction, "BATCH", 2)
        monkeypatch.setattr(reconstruction, "PAGE", 6)
        paged = measured()
    assert paged == pytest.approx(whole, rel=1e-3)
    edit(project / "config/scales/smoke.yaml", "analysis: {", "analysis: {reconstruction_images: 9, ")
    more = registry.Registry(load("smoke"))
    assert more.analyses["sd-vae"].id != r.analyses["sd-vae"].id
    jobs = [cost.Costs(which).jobs for which in (r, more)]
    plain, fewer = (sum(job.flops for job in found.values() if job.stage == "analyse") for found in jobs)
    assert fewer < plain
