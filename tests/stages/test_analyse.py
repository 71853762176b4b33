"""What is measured of an autoencoder does not depend on how it is paged, and its record says what was measured."""

import numpy as np
import pytest
import torch
from conftest import edit

from reals import files
from reals.experiment import registry
from reals.experiment.load import load
from reals.measure import reconstruction
from reals.method.models import autoencoder as models
from reals.method.models.lpips import lpips_network
from reals.planning import cost
from reals.stages import (
    analyse,
    autoencoder,
    extractor,
    inputs,
)
from reals.stages.context import Context


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("split", "says"), [("", "2 images of each of 10 classes, held-out"), ("train", "4 images of each of 10 classes, training")]
)
def test_the_record_says_which_and_how_many_images_were_used(context, project, split, says):
    """Of each class 2 images are held out; the scale asks for 4 in the t-SNE, for 20 images in all and 60 probes."""
    edit(project / "config/scales/smoke.yaml", "tsne_images: 4", "tsne_images: 4" + f", tsne_split: {split}" * bool(split))
    edit(project / "config/scales/smoke.yaml", "probe_images: 60", "probe_images: 600")
    made = Context(registry.Registry(load("smoke")))
    autoencoder.run(made, made.registry.autoencoders["sd-vae"])
    extractor.run(made, made.registry.extractor)
    artefact = made.registry.analyses["sd-vae"]
    analyse.run(made, artefact)
    protocol = files.read_json(made.folder(artefact) / "metrics.json")["protocol"]
    assert protocol["t-SNE"] == says
    assert protocol["probes"].startswith("80 training images") and protocol["probes"].endswith("k = 20 nearest")
    assert protocol["latent scale"] == "of 80 training images" and protocol["images"] == "20 held-out"
    assert artefact.identity.get("tsne_split", "") == split
