"""The autoencoder's step: the gradient of Eq. 5 as written, weights that balance, any number of processes, exact resume."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import REPOSITORY, edit
from forks import codes, fork_all
from PIL import Image
from small import ALIGN, GAN, LPIPS, VF, Pictures, task
from torch import nn

from reals.experiment.engine import EngineConfig
from reals.experiment.load import load
from reals.experiment.reading import ConfigError
from reals.experiment.registry import Registry
from reals.experiment.specs import GanSpec
from reals.method import alignment
from reals.method.alignment import AlignWeights
from reals.method.equivariance import AUTHORS
from reals.method.models import autoencoder as models
from reals.method.models import discriminator as gan
from reals.planning.preflight import checks
from reals.stages import autoencoder, data
from reals.stages.context import Context
from reals.training import loop
from reals.training.log import OF_THE_MACHINE, read_log
from reals.training.processes import Processes


def one_graph(made, step: int, weights: dict) -> dict:
    """The terms of Eq. 5 and the gradient of their weighted sum, in one graph and one batch."""
    batch = made.batch(step)
    x = models.to_input(batch.pixels)
    mean, logvar = models.moments(made.vae, x)
    z = mean + torch.exp(0.5 * logvar) * batch.noise
    reconstruction = made.vae.decode(z).sample
    a = made.spec.align
    patch, cls = made.teacher(batch.indices, batch.flips, batch.pixels)
    terms = {
        "mse": F.mse_loss(reconstruction, x),
        "l1": (reconstruction - x).abs().mean(),
        "lpips": LPIPS(reconstruction, x).mean(),
        "gan": -made.discriminator(reconstruction).mean(),
        "kl": models.kl_per_image(mean, logvar).mean(),
        "align": alignment.align_loss(made.align, z, patch, cls, AlignWeights(a.lambda_1, a.lambda_2, a.smooth_l1_beta)).total,
    }
    rest = sum(weights[k] * terms[k] for k in weights if k not in ("kl", "align"))
    norms = {
        "at_latents": torch.autograd.grad(rest, z, retain_graph=True)[0].norm() / torch.autograd.grad(terms["align"], z, retain_graph=True)[0].norm(),
    }  # fmt: skip
    loss = sum(weights[name] * terms[name] for name in weights)
    gradient = torch.autograd.grad(loss, made.trained)
    return {"terms": terms, "loss": loss, "gradient": gradient, **norms}


def gradient(made, step: int):
    batch = made.batch(step)
    (share,) = made.processes.shares(made.spec.batch)
    made.discriminator.requires_grad_(False)
    record, _ = made.gradient(batch, models.to_input(batch.pixels), made.spec.lambda_g, share)
    return record, [p.grad for p in made.trained]


def test_encoder_and_teacher_see_the_same_mirrored_images(monkeypatch):
    made, seen = task(), {}

    def teacher(indices, flips, images):
        seen["teacher"] = images
        return torch.ones(len(indices), 64, 6), torch.ones(len(indices), 6)

    def moments(vae, x):
        seen["encoder"] = x
        return encode(vae, x)

    encode, made.teacher = models.moments, teacher
    monkeypatch.setattr(models, "moments", moments)
    made.update(2)
    batch = made.batch(2)
    assert batch.flips.any() and not batch.flips.all()
    expected = torch.from_numpy(Pictures().pixels[batch.indices])
    expected[batch.flips] = expected[batch.flips].flip(-1)
    assert torch.equal(seen["teacher"], expected) and torch.equal(seen["encoder"], models.to_input(expected))


@pytest.mark.parametrize("pixel", ["mse", "l1"])
def test_the_gradient_is_that_of_eq_5_in_one_graph(pixel):
    made, plain = task(pixel=pixel), task(pixel=pixel)
    record, got = gradient(made, 2)
    expected = one_graph(plain, 2, {pixel: 1.0, "lpips": 1.0, "gan": 0.1, "kl": 1e-4, "align": 1.0})
    torch.testing.assert_close(record["loss"], expected["loss"])
    for name in (pixel, "lpips", "gan", "kl", "align"):
        torch.testing.assert_close(record[name], expected["terms"][name])
    for a, b in zip(got, expected["gradient"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_balanced_alignment_pulls_as_hard_as_the_reconstruction():
    changes = {"align": replace(ALIGN, balance="gradient", lambda_a=0.5)}
    made, plain = task(**changes), task(**changes)
    record, got = gradient(made, 2)
    weights = {"mse": 1.0, "lpips": 1.0, "gan": 0.1, "kl": 1e-4}
    ratio = one_graph(plain, 2, weights | {"align": 0.0})["at_latents"]
    torch.testing.assert_close(record["align_weighted"] / record["align"], 0.5 * ratio, rtol=1e-4, atol=0)
    expected = one_graph(plain, 2, weights | {"align": float(0.5 * ratio)})
    for a, b in zip(got, expected["gradient"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_the_adaptive_weight_is_part_of_the_step():
    record, _ = gradient(task(gan_weight="adaptive", lambda_g=0.5), 2)
    assert record["gan_weighted"] / record["gan"] != 0.5


@pytest.mark.extra
def test_adaptive_weights_are_the_same_in_compiled_networks(monkeypatch):
    """By a compiler of graphs alone, which needs no C++: the passes through them are what is asked about."""
    plain, compiled = nn.Module.compile, Processes()
    monkeypatch.setattr(nn.Module, "compile", lambda self, **kwargs: plain(self, backend="aot_eager", dynamic=True))
    compiled.compiled = True
    changes = {"align": VF, "gan_weight": "adaptive", "lambda_g": 0.5}
    with torch._functorch.config.patch(donated_buffer=True):  # monkeypatch would leave torch's settings without it
        ours, expected = (task(processes, **changes).update(0) for processes in (compiled, Processes()))
    for name, value in expected.items():
        assert float(ours[name]) == pytest.approx(float(value), rel=1e-4), name


def test_batch_norm_is_torchs_where_there_is_one_process():
    ours, theirs = gan.BatchNorm(5), torch.nn.BatchNorm2d(5)
    x = torch.randn(3, 5, 4, 4)
    assert torch.equal(ours(x), theirs(x))


STEPS = 4
VARIANTS = {
    "default": {},
    # Seed 0 meets a kink of these losses at its third step, where rounding chooses the slope; of 0 to 4 it alone does.
    "ldm": {"pixel": "l1", "gan_weight": "adaptive", "lambda_g": 0.5, "betas": [0.5, 0.9], "grad_clip": None, "seed": 1},
    "balanced": {"align": replace(ALIGN, balance="gradient"), "ema": 0.9},
    "vf, equivariant": {"align": VF, "equivariance": AUTHORS},  # of its steps 0 to 5 some are of each kind
}
# Adam turns rounding of a gradient near zero into a step of either sign; a larger epsilon lets rounding stay rounding.
EPSILON = 1e-3


def trained(folder: Path, name: str) -> None:
    with Processes() as processes:
        made = task(processes, batch=7, **VARIANTS[name])
        for optimizer in (made.optimizer, made.discriminator_optimizer):
            optimizer.param_groups[0]["eps"] = EPSILON
        loop.train(made, folder, STEPS, label="a", processes=processes, engine=EngineConfig(log_every=1))


def final(folder: Path) -> dict:
    state = torch.load(folder / "state" / f"step_{STEPS:08d}.pt", weights_only=True)["task"]
    return {f"{part}.{k}": v for part in ("vae", "align", "discriminator") for k, v in state[part].items()}


@pytest.mark.process
@pytest.mark.parametrize("name", VARIANTS)
def test_two_processes_train_as_one_does(tmp_path, name):
    """Also the discriminator's batch norm over 3 + 4 images, and weights made of gradients."""
    assert codes(fork_all(1, trained, tmp_path / "1", name) + fork_all(2, trained, tmp_path / "2", name)) == [0, 0, 0]
    one, two = final(tmp_path / "1"), final(tmp_path / "2")
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-5, msg=key)
    logs = [read_log(tmp_path / n / "log.jsonl") for n in "12"]
    for a, b in zip(*logs, strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - OF_THE_MACHINE:
            assert b[key] == pytest.approx(a[key], rel=1e-3, abs=1e-5), key


def test_accumulation_changes_nothing_where_no_batch_norm_is():
    whole, parts = (task(Processes(accumulate=k), batch=7, lambda_g=0.0) for k in (1, 3))
    a, b = whole.update(0), parts.update(0)
    assert a["loss"] == pytest.approx(float(b["loss"]), rel=1e-5)
    assert a["grad_norm"] == pytest.approx(float(b["grad_norm"]), rel=1e-4)


def test_more_shares_than_images_are_refused():
    with pytest.raises(ValueError, match=r"engine\.accumulate 8: a batch of 7 on 1 processes"):
        task(Processes(accumulate=8), batch=7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["default", "balanced", "vf, equivariant"])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, name):
    engine = EngineConfig(log_every=1)

    def run(folder, *stops):
        for steps in stops:
            made = task(**VARIANTS[name])
            loop.train(made, folder, steps, label="a", engine=engine)
        return made

    straight, resumed = run(tmp_path / "a", 6), run(tmp_path / "b", 2, 3, 6)
    assert torch.equal(torch.cat([p.flatten() for p in straight.trained]), torch.cat([p.flatten() for p in resumed.trained]))
    flat = [torch.load(tmp_path / n / "state/step_00000006.pt", weights_only=True)["task"] for n in "ab"]
    leaves = [torch.utils._pytree.tree_flatten(f)[0] for f in flat]
    assert len(leaves[0]) == len(leaves[1]) > 100
    for a, b in zip(*leaves, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    logs = [[{k: v for k, v in r.items() if k not in OF_THE_MACHINE} for r in read_log(tmp_path / n / "log.jsonl")] for n in "ab"]
    assert logs[0] == logs[1]


def test_the_average_is_what_is_kept(tmp_path):
    made = task(ema=0.75)
    expected = [p.detach().clone() for p in made.trained]
    for step in range(3):
        made.update(step)
        expected = [0.75 * e + 0.25 * p.detach() for e, p in zip(expected, made.trained, strict=True)]
    made.finish()
    for a, b in zip(made.trained, expected, strict=True):
        torch.testing.assert_close(a.detach(), b)
        assert not a.requires_grad


def test_every_term_is_logged_raw_and_weighted_and_the_held_out_batch_now_and_then(tmp_path):
    made = task()
    made.held_out_every = 2
    loop.train(made, tmp_path, 4, label="a", engine=EngineConfig(log_every=1))
    records = read_log(tmp_path / "log.jsonl")
    for record in records:
        names = ("mse", "lpips", "gan", "kl", "align")
        assert record["loss"] == pytest.approx(sum(record[f"{n}_weighted"] for n in names), rel=1e-5)
        assert {
            *names,
            "discriminator",
            "grad_norm",
            "discriminator_grad_norm",
            "lr",
            "patch_cosine",
            "cls_cosine",
        } <= record.keys()
    assert [("held_out_psnr" in r) for r in records] == [False, True, False, True]
    x = models.to_input(made.held_out.pixels)
    with torch.no_grad():
        mean, logvar = models.moments(made.vae, x)
        mse = (made.vae.decode(mean).sample.clamp(-1, 1) - x).square().mean((1, 2, 3)) / 4
    last = records[-1]
    assert last["held_out_psnr"] == pytest.approx(float((-10 * mse.log10()).mean()), abs=1e-4)
    assert last["held_out_kl"] == pytest.approx(float(models.kl_per_image(mean, logvar).mean()), rel=1e-5)
    assert last["held_out_latent_mean_2"] == pytest.approx(float(mean[:, 2].mean()), abs=1e-6)
    assert last["held_out_latent_std"] == pytest.approx(float((mean.var(correction=0) + logvar.exp().mean()).sqrt()), rel=1e-5)


def test_the_grid_shows_inputs_beside_reconstructions(tmp_path):
    made = task()
    made.grid(tmp_path / "samples" / "step_1.png")
    picture = np.asarray(Image.open(tmp_path / "samples" / "step_1.png"))
    assert picture.shape == (2 * 32, 4 * 32, 3)
    pixels = Pictures().batch(range(4)).transpose(0, 2, 3, 1)
    assert np.array_equal(picture[:32, :32], pixels[0])
    assert np.array_equal(picture[:32, 64:96], pixels[1])
    assert np.array_equal(picture[32:, 64:96], pixels[3])
    assert not np.array_equal(picture[:32, 32:64], pixels[0])


def test_bf16_networks_keep_losses_in_float32():
    full, half = task(), task(Processes("bf16"))
    a, b = full.update(0), half.update(0)
    for name in ("mse", "lpips", "gan", "kl", "align", "discriminator"):
        assert b[name].dtype == torch.float32
        assert float(b[name]) == pytest.approx(float(a[name]), rel=0.05, abs=0.02)
        assert a[name] != b[name]
    assert {p.dtype for p in half.trained} == {torch.float32}


def test_the_discriminator_waits_for_its_start():
    made = task(gan=replace(GAN, start=1))
    before = {k: v.clone() for k, v in made.discriminator.state_dict().items()}
    assert "discriminator" not in made.update(0)
    assert all(torch.equal(before[k], v) for k, v in made.discriminator.state_dict().items())
    assert {"gan", "discriminator"} <= made.update(1).keys()
    assert any(not torch.equal(before[k], v) for k, v in made.discriminator.state_dict().items())


def test_a_loss_that_is_not_finite_stops_with_its_terms_and_keeps_the_last_good_state(tmp_path):
    made = task(lr=1.0)
    loop.train(made, tmp_path, 1, label="a")
    with torch.no_grad():
        made.vae.quant_conv.bias.fill_(float("nan"))
    again = task(lr=1.0)
    again.load = lambda state: task.load(again, state)
    made.load = lambda state: None  # the poisoned weights stay
    with pytest.raises(FloatingPointError, match=r"step 1 .*mse nan.*align.*last good state is that of step 1"):
        loop.train(made, tmp_path, 5, label="a")
    assert [p.name for p in sorted((tmp_path / "state").glob("*.pt"))] == ["step_00000001.pt"]


@pytest.fixture
def context(project):
    def made(**edits) -> Context:
        path = project / "config/scales/smoke.yaml"
        edit(path, "images_per_class: 40", "images_per_class: 10")
        for old, new in edits.values():
            edit(path, old, new)
        context = Context(Registry(load("smoke")))
        data.run(context, context.registry.data)
        return context

    return made


def test_presets_are_complete_and_each_trains(project):
    paper = load("smoke").paper
    assert set(paper.autoencoder) == {"default", "ldm", "llamagen"}
    ids = set()
    for name, loss in paper.autoencoder.items():
        text = (project / "config/scales/smoke.yaml").read_text()
        scale = project / f"{name}.yaml"
        scale.write_text(
            text.replace("name: smoke", f"name: {name}").replace("autoencoder:\n", f"autoencoder:\n  preset: {name}\n", 1)
        )
        spec = Registry(load(str(scale))).autoencoders["reals"].spec
        ids.add(Registry(load(str(scale))).autoencoders["reals"].id)
        made = task(
            **{k: getattr(spec, k) for k in ("pixel", "lambda_p", "lambda_g", "gan_weight", "betas", "weight_decay", "grad_clip")}
        )
        assert torch.isfinite(made.update(3)["loss"])
        assert (spec.pixel, spec.lambda_g) == (loss.pixel, loss.lambda_g)
        # The smoke scale's own start and ramp win over the preset's.
        assert (spec.gan.start, spec.gan.ramp) == (0, 2)
    assert len(ids) == 3
    assert Registry(load("imagenet256")).autoencoders["reals"].spec.gan == GanSpec(start=0, ramp=5000, channels=64, layers=3)


def test_an_unknown_preset_is_refused(project):
    edit(project / "config/scales/smoke.yaml", "autoencoder:\n", "autoencoder:\n  preset: vqgan\n")
    with pytest.raises(ConfigError, match="preset 'vqgan'"):
        load("smoke")


@pytest.mark.slow
def test_the_folder_carries_the_latent_scale(context):
    from diffusers import AutoencoderKL

    made = context()
    artefact = made.registry.autoencoders["sd-vae"]
    autoencoder.run(made, artefact)
    vae = AutoencoderKL.from_pretrained(made.folder(artefact))
    images = made.images("train")
    with torch.no_grad():
        posterior = vae.encode(models.to_input(torch.from_numpy(images.batch(np.arange(len(images)))))).latent_dist
        z = torch.cat([posterior.sample(torch.Generator().manual_seed(i)) for i in range(20)])
    assert float((z * vae.config.scaling_factor).std()) == pytest.approx(1, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("factor", ["own", "measured"])
def test_a_folder_written_by_diffusers_is_a_base_and_keeps_its_factor_unless_measured(context, tmp_path, factor):
    given = tmp_path / "given"
    vae = models.build(32, 4, (8, 8, 8), 1, 8)
    models.initialise(vae, 5)
    vae.register_to_config(scaling_factor=0.18215)
    vae.save_pretrained(given)
    networks = alignment.AlignNetworks(4, 6, 2, 8, patch=True, cls=False)
    models.save_align(networks, given)
    made = context(base=(
        "sd-vae: {kind: trained, steps: 3, batch: 8, lr: 1.0e-3, lambda_k: 1.0e-6}",
        f"sd-vae: {{kind: diffusers, path: {given}, scaling_factor: {factor}}}",
    ))  # fmt: skip
    artefact = made.registry.autoencoders["sd-vae"]
    autoencoder.run(made, artefact)
    brought = models.load(made.folder(artefact))
    assert all(torch.equal(v, vae.state_dict()[k]) for k, v in brought.state_dict().items())
    assert (brought.config.scaling_factor == 0.18215) == (factor == "own")
    assert models.load_align(made.folder(artefact)).settings == networks.settings
    started = made.registry.autoencoders["control"]
    autoencoder.run(made, started)
    assert models.load(made.folder(started)).config.latent_channels == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "says"),
    [
        ({"latent_channels": 3}, "has 3 latent channels, this scale's latents 4"),
        ({"block_out_channels": (8, 8)}, "has 2 times downsampling, this scale's latents 4"),
    ],
)
def test_a_base_that_does_not_fit_is_refused(context, tmp_path, build, says):
    sizes = {"resolution": 32, "latent_channels": 4, "block_out_channels": (8, 8, 8), "layers_per_block": 1, "norm_num_groups": 8}
    models.build(**(sizes | build)).save_pretrained(tmp_path / "given")
    made = context(base=(
        "sd-vae: {kind: trained, steps: 3, batch: 8, lr: 1.0e-3, lambda_k: 1.0e-6}",
        f"sd-vae: {{kind: diffusers, path: {tmp_path / 'given'}}}",
    ))  # fmt: skip
    with pytest.raises(ValueError, match=f"bases.sd-vae.path: .*{says}"):
        autoencoder.run(made, made.registry.autoencoders["sd-vae"])


@pytest.mark.slow
def test_a_base_with_another_checksum_is_refused_before_it_is_read(context, tmp_path):
    models.build(32, 4, (8, 8, 8), 1, 8).save_pretrained(tmp_path / "given")
    made = context(base=(
        "sd-vae: {kind: trained, steps: 3, batch: 8, lr: 1.0e-3, lambda_k: 1.0e-6}",
        f"sd-vae: {{kind: diffusers, path: {tmp_path / 'given'}, sha256: {'ab' * 32}}}",
    ))  # fmt: skip
    with pytest.raises(ValueError, match="its sha256 is"):
        autoencoder.run(made, made.registry.autoencoders["sd-vae"])


def test_a_seed_repeats_training_on_the_same_data(project):
    first, second = (Registry(load("smoke", seed=s)) for s in (None, 1))
    assert first.data.id == second.data.id
    assert first.teachers["large"].id == second.teachers["large"].id
    assert first.autoencoders["reals"].id != second.autoencoders["reals"].id
    assert first.root == second.root
    assert Registry(load("smoke", seed=0)).autoencoders["reals"].id == first.autoencoders["reals"].id
    assert second.experiment.overrides == ("scale=smoke", "seed=1")


@pytest.mark.slow
def test_a_unit_scale_start_is_the_same_autoencoder_at_another_scale(context):
    made = context(
        unit=("autoencoder:\n  block", "autoencoder:\n  unit_scale: true\n  lr: 1.0e-12\n  block"), lr=("  lr: 5.0e-4\n", "")
    )
    for name in ("sd-vae", "control"):
        autoencoder.run(made, made.registry.autoencoders[name])
    base, tuned = (models.load(made.folder(made.registry.autoencoders[n])) for n in ("sd-vae", "control"))
    x = models.to_input(torch.from_numpy(made.images("train").batch(np.arange(8))))
    a, b = base.encode(x).latent_dist, tuned.encode(x).latent_dist
    torch.testing.assert_close(b.mean, a.mean * base.config.scaling_factor, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tuned.decode(b.mean).sample, base.decode(a.mean).sample, rtol=1e-4, atol=1e-4)
    assert tuned.config.scaling_factor == pytest.approx(1, abs=1e-3)


def test_a_teacher_whose_grid_is_not_the_latents_is_refused_before_training():
    def teacher(tokens):
        return lambda indices, flips, images: (torch.ones(len(indices), tokens, 6), torch.ones(len(indices), 6))

    check = autoencoder._check_grid
    check(teacher(64), Pictures(), 8, True, torch.device("cpu"))
    check(teacher(0), Pictures(), 8, False, torch.device("cpu"))  # cls features alone are enough where cls alone is aligned
    with pytest.raises(ValueError, match="49 patch features an image, the latents want 8x8 = 64"):
        check(teacher(49), Pictures(), 8, True, torch.device("cpu"))


@pytest.mark.parametrize(("path", "says"), [("nowhere/at/all", "no such file or folder"), ("config", "has no config.json")])
def test_a_base_that_is_not_there_is_refused_before_the_first_job(project, path, says):
    edit(
        project / "config/scales/smoke.yaml",
        "sd-vae: {kind: trained, steps: 3, batch: 8, lr: 1.0e-3, lambda_k: 1.0e-6}",
        f"sd-vae: {{kind: diffusers, path: {path}}}",
    )
    with pytest.raises(ConfigError, match=f"bases.sd-vae.path: {path}.*{says}"):
        checks.at_start(Registry(load("smoke")))


@pytest.mark.extra
def test_one_step_at_full_size():
    """SD-VAE's and DINOv2-large-reg's exact sizes: counts, shapes, gradients, what stays frozen, memory. About 7 GB."""
    done = subprocess.run(
        [sys.executable, REPOSITORY / "benchmarks/bench_autoencoder.py", "--proof"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "an image kept for the backward pass" in done.stdout
