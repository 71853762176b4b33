"""VA-VAE's kind of latents, end to end: 16-fold and 32 channels from a folder, patch size 1, channels normalised, logit-normal times."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import edit

from reals import files, rng
from reals.data.latent_scale import LatentScale
from reals.data.readers import Latents
from reals.experiment.load import load
from reals.experiment.reading import ConfigError
from reals.experiment.registry import Registry
from reals.method.models import autoencoder as models
from reals.planning import footprint
from reals.planning.cost import Costs
from reals.stages import autoencoder, data, evaluate, latents, sample, transformer
from reals.stages.context import Context


def protocol_of(registry: Registry, name: str) -> dict:
    real = SimpleNamespace(features=torch.zeros(20, 4), pool=SimpleNamespace(n=20))
    return evaluate.protocol(Context(registry), registry.evaluations[name], real, {"fid": 1.0})


@pytest.fixture
def registry(project) -> Registry:
    """The smoke scale on latents of 2x2 cells of 32 channels, its base a folder with attention among the last blocks."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    plain, up = ["DownEncoderBlock2D"] * 4, ["UpDecoderBlock2D"] * 4
    given = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=32, block_out_channels=(8,) * 5, layers_per_block=1, norm_num_groups=8,
        down_block_types=(*plain, "AttnDownEncoderBlock2D"), up_block_types=("AttnUpDecoderBlock2D", *up),
    )  # fmt: skip
    models.initialise(given, 3)
    with torch.no_grad():
        given.quant_conv.bias[:32] = torch.linspace(-3, 3, 32)  # channels far from mean 0, as VA-VAE's are
    given.save_pretrained("given")
    path = Path("config/scales/smoke.yaml")
    for old, new in (
        ("latent: {channels: 4, factor: 4}", "latent: {channels: 32, factor: 16, normalise: channels}"),
        ("sd-vae: {kind: trained, steps: 3, batch: 8, lr: 1.0e-3, lambda_k: 1.0e-6}", "sd-vae: {kind: diffusers, path: given, scaling_factor: measured}"),
        ("block_out_channels: [8, 8, 8]", "block_out_channels: [8, 8, 8, 8, 8]"),
        ("images_per_class: 40", "images_per_class: 10"),
    ):  # fmt: skip
        edit(path, old, new)
    path.write_text(path.read_text().replace("patch: 4,", "patch: 16,"))
    for sheet in (Path("config/runs.tsv"),):
        lines = sheet.read_text().replace("/2\t", "/1\t").replace("milestones", "milestones\ttimes").splitlines()
        sheet.write_text("\n".join(line if line[0] == "#" or "times" in line else line + "\t-" for line in lines) + "\n")
    edit(Path("config/runs.tsv"), "sit-b2-sd-vae\tSiT-B/1\tsd-vae\tno\t400K,1M\t-", "sit-b2-sd-vae\tSiT-B/1\tsd-vae\tno\t400K,1M\tlogit-normal")
    return Registry(load("smoke"))


@pytest.mark.slow
def test_it_loads_from_a_folder_trains_and_samples(registry):
    context = Context(registry)
    base, run = registry.autoencoders["sd-vae"], registry.runs["sit-b2-sd-vae"]
    data.run(context, registry.data)
    autoencoder.run(context, base)
    config = models.load(context.folder(base)).config
    assert len(config.latents_mean) == len(config.latents_std) == 32 and config.scaling_factor == 1
    latents.run(context, registry.latents["sd-vae"])
    cache = Latents(context.folder(registry.latents["sd-vae"]))
    assert cache.manifest["latents_mean"] == list(config.latents_mean)
    draws = [cache.batch(range(len(cache)), np.zeros(len(cache), int), torch.randn(len(cache), 32, 2, 2)) for _ in range(16)]
    everything = torch.cat(draws)  # one draw alone is up to 0.2 off by chance
    assert everything.mean((0, 2, 3)).abs().max() < 0.1 and (everything.std((0, 2, 3)) - 1).abs().max() < 0.1
    transformer.run(context, run, 2)
    drawn = registry.samples["sit-b2-sd-vae_400K"]
    sample.run(context, drawn, 0)
    images = np.load(registry.files(drawn, 0)[0])
    assert images.shape[1:] == (3, 32, 32) and images.dtype == np.uint8
    with np.load(context.folder(drawn) / "gallery.npz") as kept:
        means = kept["latents"].mean((0, 2, 3))  # unscaled again: around the channels' own means
    assert np.corrcoef(means, config.latents_mean)[0, 1] > 0.9


def test_what_is_measured_says_so(registry):
    said = [protocol_of(registry, name) for name in ("sit-b2-sd-vae_400K", "sit-b2-reals_400K")]
    assert [p.get("training times") for p in said] == ["logit-normal", None]
    assert all(p["latents"] == "each channel normalised by its own mean and std" for p in said)


@pytest.mark.slow
def test_a_fine_tuned_one_states_its_own_mean_and_std(registry):
    context = Context(registry)
    data.run(context, registry.data)
    for name in ("sd-vae", "control"):
        autoencoder.run(context, registry.autoencoders[name])
    base, tuned = (files.opened(context.folder(registry.autoencoders[name])) for name in ("sd-vae", "control"))
    assert tuned["latents_mean"] == tuned["latent_channel_mean"] and tuned["latents_mean"] != base["latents_mean"]
    assert LatentScale.of(tuned) == LatentScale.of_config(models.load(context.folder(registry.autoencoders["control"])).config)


@pytest.mark.slow
def test_it_is_planned(registry):
    """FLOPs, and memory by following the real steps without a GPU."""
    costs = Costs(registry)
    assert all(job.flops >= 0 for job in costs.jobs.values())
    assert footprint.transformer(registry, registry.runs["sit-b2-sd-vae"], 1, 1, False) > 0
    assert footprint.sampling(registry, registry.samples["sit-b2-sd-vae_400K"], 4) > 0
    assert footprint.encoding(registry, registry.latents["sd-vae"], 4) > 0
    assert footprint.autoencoder(registry, registry.autoencoders["reals"], 1, 1) > 0


def test_what_is_absent_leaves_ids_and_what_is_set_changes_what_depends_on_it(registry):
    plain, other = registry.autoencoders["control"].spec, registry.runs["sit-b2-sd-vae"].spec
    assert plain.normalise == "channels" and other.times == "logit-normal" and other.patch == 1
    identity = registry.runs["sit-b2-reals"].identity
    assert "times" not in identity and "normalise" not in identity
    edit(Path("config/scales/smoke.yaml"), ", normalise: channels", "")
    again = Registry(load("smoke"))
    assert "normalise" not in again.autoencoders["control"].identity
    assert again.autoencoders["control"].id != registry.autoencoders["control"].id
    assert dataclasses.replace(again.autoencoders["control"].spec, normalise="channels", init=plain.init) == plain


def test_two_ways_to_unit_variance_are_refused(registry):
    edit(Path("config/scales/smoke.yaml"), "  align_hidden: 16", "  unit_scale: true\n  align_hidden: 16")
    with pytest.raises(ConfigError, match=r"autoencoder.unit_scale rescales latents by one factor, latent.normalise each channel"):
        load("smoke")


def test_logit_normal_times_are_for_sit(registry):
    edit(Path("config/runs.tsv"), "dit-b2-sd-vae\tDiT-B/1\tsd-vae\tno\t400K\t-", "dit-b2-sd-vae\tDiT-B/1\tsd-vae\tno\t400K\tlogit-normal")
    with pytest.raises(ConfigError, match=r"runs.tsv line \d+: times logit-normal is for SiT runs"):
        load("smoke")


def test_training_times_depend_on_seed_and_step_alone():
    from small import RUN

    from reals.method.objectives import logit_normal
    from reals.method.models.transformer import Transformer
    from reals.planning.stand_ins import LatentsStandIn
    from reals.training.processes import Processes
    from reals.training.tasks.transformer import TransformerTask, network_config

    def times(**changes):
        spec = dataclasses.replace(RUN, batch=2000, **changes)
        model = Transformer(network_config(spec, 5, None)).train()
        return TransformerTask(spec, model, LatentsStandIn(16, 2, 4), torch.zeros(16, dtype=torch.int64), Processes()).batch(7).t

    t = times(times="logit-normal")
    normal = torch.randn(2000, generator=rng.generator(RUN.seed, "time", 7))
    torch.testing.assert_close(t, 1 / (1 + torch.exp(-normal)))
    assert torch.equal(t, logit_normal(normal)) and 0 < t.min() and t.max() < 1
    logits = torch.logit(t.double())
    assert abs(float(logits.mean())) < 0.1 and abs(float(logits.std()) - 1) < 0.1
    uniform = times()
    assert torch.equal(uniform, torch.rand(2000, generator=rng.generator(RUN.seed, "time", 7)))
