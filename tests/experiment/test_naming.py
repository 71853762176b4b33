"""What people call a job."""

import pytest
from conftest import REPOSITORY

from reals.experiment.load import load
from reals.experiment.naming import Names
from reals.experiment.registry import Registry
from reals.experiment.stage_table import STAGES

SCALES = ("demo", "photographs", "cifar10", "imagenet100", "imagenet256", "smoke")


def names_of(scale: str) -> Names:
    return Names(Registry(load(scale, folder=REPOSITORY / "config")))


@pytest.mark.parametrize("scale", SCALES)
def test_each_job_has_a_name_of_its_own(scale):
    names = names_of(scale)
    artefacts = {artefact.id: artefact for artefact in names.registry.all()}.values()
    said = [names.of(artefact, number) for artefact in artefacts for number in names.registry.numbers(artefact)]
    assert len(said) == len(set(said))
    assert {artefact.kind for artefact in artefacts} >= {stage.kind for stage in STAGES} - {"features"}
    assert not any(artefact.id[-10:] in name for artefact in artefacts for name in said), "no hash is in a name"


def test_names_are_those_of_the_paper():
    names = names_of("imagenet256")
    registry = names.registry
    steps = registry.experiment.scale.milestones
    said = {
        names.of(registry.data),
        names.of(registry.reference),
        names.of(registry.teachers["large"]),
        names.of(registry.autoencoders["reals-kl0"]),
        names.of(registry.latents["sd-vae"]),
        names.of(registry.analyses["control"]),
        names.of(registry.runs["sit-b2-reals"], steps["400K"]),
        names.of(registry.runs["repa-b2-reals"], steps["1M"]),
        names.of(registry.runs["sit-b2-reals"], 7),
        names.of(registry.samples["dit-b2-reals_400K_cfg1.5"], 2),
        names.of(registry.samples["sit-xl2-reals_2M_cfg4.0"], 0),
        names.of(registry.evaluations["sit-b2-reals_1M_cfg2.0_interval"]),
    }
    assert said == {
        "data imagenet",
        "reference of imagenet by inception-v3-compat",
        "teacher dinov2-large-reg",
        "autoencoder ReaLS-kl0",
        "latents of SD-VAE",
        "analysis of autoencoder control",
        "SiT-B/2 on ReaLS, 400K",
        "SiT-B/2 with REPA on ReaLS, 1M",
        "SiT-B/2 on ReaLS, step 7",
        "samples of DiT-B/2 on ReaLS at 400K, cfg 1.5, shard 2",
        "samples of SiT-XL/2 on ReaLS at 2M, cfg 4, gallery",
        "evaluation of SiT-B/2 on ReaLS at 1M, cfg 2 in [0,0.75]",
    }


def test_a_name_says_which_seed_where_there_are_several():
    names = names_of("cifar10")
    registry = names.registry
    assert names.of(registry.autoencoders["reals-seed1"]) == "autoencoder ReaLS, seed 1"
    assert names.of(registry.runs["sit-b4-reals-seed1"]) == "SiT-B/4 on ReaLS, seed 1"
    assert names.of(registry.runs["sit-b4-reals-fixed"]) == "SiT-B/4 on 0.18215 x ReaLS, seed 0"
    assert names.of(registry.evaluations["sit-b4-reals_late_ode"]) == "evaluation of SiT-B/4 on ReaLS, seed 0 at late, ode"
    assert names.of(registry.autoencoders["reals-kl0"]) == "autoencoder ReaLS-kl0"


def test_rows_that_would_share_a_name_say_which_they_are():
    names = names_of("demo")
    row = names.experiment.runs["sit-b2-reals"]
    names.experiment.runs["twin"] = row.model_copy(update={"name": "twin"})
    assert names.runs["twin"] == "SiT-B/2 on ReaLS (twin)"
    assert names.runs["sit-b2-reals"] == "SiT-B/2 on ReaLS (sit-b2-reals)"
