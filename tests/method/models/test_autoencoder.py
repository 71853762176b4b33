"""The autoencoder's losses in closed form, its exchange format, and that a step trains what it should."""

import warnings
from dataclasses import replace

import lpips
import numpy as np
import pytest
import torch
from small import GAN, LPIPS, task, tiny
from torch import nn

from reals import rng
from reals.data.latent_scale import LatentScale
from reals.method import alignment
from reals.method.models import autoencoder as models
from reals.method.models import discriminator as gan
from reals.method.models import teacher as teachers
from reals.method.models.lpips import lpips_network
from reals.method.models.teacher import pooled


def test_kl_is_summed_over_dimensions_per_image():
    shape = (3, 4, 32, 32)
    assert models.kl_per_image(torch.ones(shape), torch.zeros(shape)).tolist() == [2048.0] * 3
    assert models.kl_per_image(torch.zeros(shape), torch.zeros(shape)).tolist() == [0.0] * 3
    mean, logvar = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    normal = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0, 1)).sum((1, 2, 3))
    torch.testing.assert_close(models.kl_per_image(mean, logvar), expected)


def test_kl_is_what_diffusers_says():
    posterior = tiny().encode(torch.randn(2, 3, 32, 32)).latent_dist
    torch.testing.assert_close(models.kl_per_image(posterior.mean, posterior.logvar), posterior.kl())


def test_paper_size_matches_sd_vae():
    with torch.device("meta"):
        vae = models.build(256, 4, (128, 256, 512, 512), 2, 32)
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863
    assert sum(p.numel() for p in vae.encoder.parameters()) == 34_163_592


def test_weights_are_a_function_of_the_seed():
    torch.manual_seed(1)
    a = tiny(5).state_dict()
    torch.manual_seed(2)
    b = tiny(5).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], v) for k, v in tiny(6).state_dict().items())


def test_saved_folder_opens_with_diffusers_alone(tmp_path):
    from diffusers import AutoencoderKL

    vae = tiny().eval()
    models.save(vae, 0.7, tmp_path)
    again = AutoencoderKL.from_pretrained(tmp_path)
    assert again.config.scaling_factor == 0.7
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(again.encode(x).latent_dist.mean, vae.encode(x).latent_dist.mean)


def test_channels_own_mean_and_std_are_written_and_read_as_diffusers_has_them(tmp_path):
    from diffusers import AutoencoderKL

    vae, scale = tiny(), LatentScale(1.0, (0.1, 0.0, -1.0, 2.0), (1.0, 0.5, 2.0, 3.0))
    vae.register_to_config(shift_factor=0.5)
    models.save(vae, scale, tmp_path)
    theirs = AutoencoderKL.from_pretrained(tmp_path).config
    assert (theirs.latents_mean, theirs.latents_std, theirs.scaling_factor) == (list(scale.mean), list(scale.std), 1.0)
    assert theirs.shift_factor is None
    assert LatentScale.of_config(models.load(tmp_path).config) == scale
    models.save(models.load(tmp_path), 0.3, tmp_path / "again")  # one factor, and nothing is left of the others
    assert LatentScale.of_config(models.load(tmp_path / "again").config) == LatentScale(0.3)
    with pytest.raises(ValueError, match="there is no one factor"):
        models.rescale_latents(models.load(tmp_path), 0.5)


def test_latents_that_cannot_be_scaled_as_the_config_says_are_refused(tmp_path):
    vae = tiny()
    vae.register_to_config(latents_mean=[0.1, 0.0], latents_std=[1.0, 1.0])
    vae.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"config.json: has latents_mean \[0.1, 0.0\]; expected 4 numbers"):
        models.load(tmp_path)


@pytest.mark.parametrize(
    ("there", "says"),
    [
        (
            [f"{models.STEM}.fp16.safetensors"],
            rf"if {models.STEM}\.fp16\.safetensors are its weights, .* name it {models.STEM}\.safetensors",
        ),
        (["pytorch_model.bin"], rf"if pytorch_model\.bin are its weights, .* name it {models.STEM}\.bin"),
        (
            [f"{models.STEM}-0000{i}-of-00002.safetensors" for i in (1, 2)],
            r"-00001-of-00002\.safetensors is a part: load it by diffusers",
        ),
        ([], rf"has neither {models.WEIGHTS} nor {models.STEM}\.bin$"),
    ],
)
def test_weights_under_another_name_are_named_with_what_to_do(tmp_path, there, says):
    (tmp_path / "config.json").write_text("{}")
    for name in there:
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=says):
        models.load(tmp_path)


def test_a_link_of_the_cache_that_leads_nowhere_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / models.WEIGHTS).symlink_to(tmp_path / "blobs")
    with pytest.raises(ValueError, match=rf"{models.WEIGHTS} is a link that leads nowhere"):
        models.load(tmp_path)


def test_align_networks_travel_beside_it(tmp_path):
    networks = alignment.AlignNetworks(4, 6, 2, 8, patch=True, cls=False)
    models.save_align(networks, tmp_path)
    z = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(models.load_align(tmp_path)(z)[0], networks(z)[0])
    assert models.load_align(tmp_path / "other") is None


def test_discriminator_is_pix2pix():
    assert sum(p.numel() for p in gan.patch_gan().parameters()) == 2_765_633
    with torch.device("meta"):
        assert gan.patch_gan()(torch.empty(2, 3, 256, 256)).shape == (2, 1, 30, 30)
    zero = torch.zeros(2, 1, 4, 4)
    assert gan.discriminator_loss(zero, zero) == 1.0
    assert gan.generator_loss(zero) == 0.0
    assert gan.discriminator_loss(zero + 2, zero - 2) == 0.0


def test_lpips_is_a_distance():
    network = LPIPS
    x, y = torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 3, 32, 32) * 2 - 1
    assert network(x, x).abs().max() < 1e-6
    torch.testing.assert_close(network(x, y), network(y, x))
    assert network(x, y).min() > 0
    torch.testing.assert_close(network(x, y), lpips_network("alex", "random", None)(x, y))


@pytest.mark.slow
def test_a_random_backbone_is_that_of_the_key_whether_or_not_the_classifier_is_drawn():
    import torchvision

    with torch.random.fork_rng():
        torch.manual_seed(rng.key(0, "lpips backbone"))
        drawn = torchvision.models.alexnet().features.state_dict()
    made = {k.split(".", 1)[1]: v for k, v in LPIPS.network.net.state_dict().items()}
    assert made.keys() == drawn.keys() and all(torch.equal(made[k], drawn[k]) for k in drawn)
    assert nn.Linear(4, 4).weight.std() > 0.1  # layers that others make have numbers


@pytest.mark.slow
@pytest.mark.parametrize("side", [32, 64])  # at 32 AlexNet's last maps are single pixels
def test_lpips_is_the_package_s_and_its_distances_are_float32(side):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torchvision.models")
        package = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).requires_grad_(False)
    package.load_state_dict(LPIPS.network.state_dict())
    x, y = (torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1 for seed in (0, 1))
    found = []
    for network in (LPIPS, package):
        images = x.clone().requires_grad_()
        distance = network(images, y)
        distance.mean().backward()
        found.append((distance.detach(), images.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))
    with torch.autocast("cpu", torch.bfloat16):
        half = LPIPS(x, y)
    assert half.dtype == torch.float32 and not torch.equal(half, found[0][0])
    torch.testing.assert_close(half, found[0][0], rtol=0.02, atol=0)


@pytest.mark.slow
def test_lpips_backbone_from_a_file(tmp_path):
    import torchvision

    torch.manual_seed(3)
    state = torchvision.models.alexnet().state_dict()
    torch.save(state, tmp_path / "alex.pt")
    loaded = lpips_network("alex", "pretrained", str(tmp_path / "alex.pt"))
    assert torch.equal(loaded.network.net.slice2.state_dict()["3.weight"], state["features.3.weight"])


def test_lpips_weights_that_are_not_torchvisions_are_refused(tmp_path):
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"no features\..*torchvision's file of alex"):
        lpips_network("alex", "pretrained", str(tmp_path / "other.pt"))
    (tmp_path / "torn.pt").write_bytes(b"PK")
    with pytest.raises(ValueError, match="truncated"):
        lpips_network("alex", "pretrained", str(tmp_path / "torn.pt"))


def weights(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def test_one_step_moves_every_part_and_adds_up():
    made = task()
    before = [weights(m) for m in (made.vae.encoder, made.vae.decoder, made.align.patch, made.align.cls, made.discriminator)]
    record = made.update(3)
    after = [weights(m) for m in (made.vae.encoder, made.vae.decoder, made.align.patch, made.align.cls, made.discriminator)]
    for old, new in zip(before, after, strict=True):
        assert any(not torch.equal(old[k], new[k]) for k in old)
    total = sum(record[f"{name}_weighted"] for name in ("mse", "kl", "lpips", "gan", "align"))
    torch.testing.assert_close(record["loss"], total)
    torch.testing.assert_close(record["kl_weighted"], 1e-4 * record["kl"])


def test_the_control_differs_by_the_align_term_alone():
    with_align, without = task(), task(align=None)
    a, b = with_align.update(0), without.update(0)
    for name in ("mse", "kl", "lpips", "gan"):
        assert a[name] == b[name]
    torch.testing.assert_close(a["loss"] - b["loss"], a["align_weighted"])


def test_learning_rate_falls_to_zero_and_gan_ramps_in():
    made = task(gan=replace(GAN, start=2, ramp=4))
    assert [made._ramp(s) for s in (0, 2, 3, 4, 6, 9)] == [0, 0, 0.25, 0.5, 1, 1]
    made.update(0)
    assert made.optimizer.param_groups[0]["lr"] == 1e-3
    made.update(9)
    assert made.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * 0.5 * (1 + np.cos(np.pi * 0.9)))


def test_a_step_is_a_function_of_its_number():
    a, b = task(), task()
    b.update(0)
    state = b.state()
    for m in (a, b):
        m.load(state)
    torch.manual_seed(9)
    x = a.update(7)["loss"]
    torch.manual_seed(10)
    assert b.update(7)["loss"] == x


@pytest.mark.slow
def test_dinov2_large_reg_fits_the_latent_grid_of_the_paper():
    config = teachers.TeacherConfig(
        "vit_large_patch14_reg4_dinov2.lvd142m", 14, 32, teachers.IMAGENET_MEAN, teachers.IMAGENET_STD
    )
    with torch.device("meta"):
        network = teachers.build(config)
        tokens = network.forward_features(torch.empty(1, 3, 448, 448))
    assert network.num_prefix_tokens == 5
    assert tokens.shape == (1, 5 + 32 * 32, 1024)


def test_teacher_round_trip(tmp_path):
    config = teachers.TeacherConfig("", 4, 4, (0.5,) * 3, (0.5,) * 3, width=16, depth=1, heads=2, classes=3)
    network = teachers.build(config)
    teachers.save(network, config, tmp_path)
    x = torch.rand(2, 3, 16, 16)
    for a, b in zip(teachers.load(tmp_path).features(x), teachers.Teacher(config, network).features(x), strict=True):
        assert torch.equal(a, b)


def test_pooling_onto_a_coarser_grid_averages_blocks():
    x = torch.arange(16.0).view(1, 16, 1)
    assert pooled(x, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert pooled(x, 4) is x
    with pytest.raises(ValueError, match="does not divide"):
        pooled(x, 3)


def test_a_repository_of_before_safetensors_is_asked_for_what_it_has(tmp_path, monkeypatch):
    """The checks before a run take both, and so does the loader."""
    import huggingface_hub

    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append(allow_patterns[1])
        if allow_patterns[1] in there:
            (tmp_path / allow_patterns[1]).touch()
        (tmp_path / "config.json").touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    there = ["diffusion_pytorch_model.bin"]
    assert models.find("a/vae")[1] == tmp_path / there[0] and len(asked) == 2
    there = ["diffusion_pytorch_model.safetensors", *there]
    assert models.find("a/vae")[1] == tmp_path / there[0] and len(asked) == 3


@pytest.mark.parametrize("text", ["[]", "{}", '{"mean": 1, "std": 2}', "{"])
def test_damaged_settings_of_a_teacher_are_one_line(tmp_path, text):
    (tmp_path / "teacher.json").write_text(text)
    with pytest.raises(ValueError, match=r"teacher\.json: damaged"):
        teachers.load(tmp_path)
