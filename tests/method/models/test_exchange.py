"""Autoencoders in and out: every format gives the network that diffusers gives, and what is broken gets one line."""

import json
import re

import pytest
import torch
from diffusers import AutoencoderKL

from reals.method.models import autoencoder as models


@pytest.fixture(scope="module")
def vae():
    """Random, with every feature of SD-VAE's configuration: shortcuts, attention, several levels."""
    made = models.build(32, 4, (32, 64, 64), 1, 32)
    models.initialise(made, 0)
    made.register_to_config(scaling_factor=0.18215)
    return made.eval().requires_grad_(False)


def to_ldm(state: dict) -> dict:
    """diffusers' names -> LDM's, written from LDM's module tree: the inverse of what is under test."""
    levels = 1 + max(int(k.split(".")[2]) for k in state if k.startswith("encoder.down_blocks"))
    out = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[1] == "mid_block" and parts[2] == "attentions":
            leaf = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}[parts[4]]
            new = [parts[0], "mid", "attn_1", leaf, parts[-1]]
            value = value[:, :, None, None] if leaf != "norm" and parts[-1] == "weight" else value
        elif parts[1] == "mid_block":
            new = [parts[0], "mid", f"block_{int(parts[3]) + 1}", *parts[4:]]
        elif parts[1] in ("down_blocks", "up_blocks"):
            level = int(parts[2]) if parts[1] == "down_blocks" else levels - 1 - int(parts[2])
            if parts[3] == "attentions":
                leaf = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}[parts[5]]
                rest = ["attn", parts[4], leaf, parts[-1]]
                value = value[:, :, None, None] if leaf != "norm" and parts[-1] == "weight" else value
            else:
                rest = ["block", parts[4], *parts[5:]] if parts[3] == "resnets" else [parts[3].removesuffix("rs"), *parts[5:]]
            new = [parts[0], parts[1].removesuffix("_blocks"), str(level), *rest]
        else:
            new = [p.replace("conv_norm_out", "norm_out") for p in parts]
        out[".".join(new).replace("conv_shortcut", "nin_shortcut")] = value
    return out


def to_old(state: dict) -> dict:
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    return {re.sub(r"\.to_(q|k|v|out\.0)\.", lambda m: names[m[0]], k): v.clone() for k, v in state.items()}


def written(vae, kind: str, folder):
    """The network in one of the formats that are around; what to load."""
    from safetensors.torch import save_file

    state = vae.state_dict()
    if kind == "diffusers":
        vae.save_pretrained(folder)
        return folder
    if kind in ("bin", "old", "old bin"):
        vae.save_pretrained(folder)
        (folder / models.WEIGHTS).unlink()
        state = to_old(state) if "old" in kind else state
        if "bin" in kind:
            torch.save(state, folder / f"{models.STEM}.bin")
        else:
            save_file(state, folder / models.WEIGHTS)
        return folder
    ldm = to_ldm(state)
    if kind == "ldm .safetensors":
        save_file(ldm | {"loss.logvar": torch.zeros(())}, folder / "vae.safetensors")
        return folder / "vae.safetensors"
    if kind == "ldm .pt":
        torch.save(ldm, folder / "vae.pt")
        return folder / "vae.pt"
    whole = {f"first_stage_model.{k}": v for k, v in ldm.items()} | {"model.diffusion_model.x": torch.zeros(1)}
    torch.save({"state_dict": whole, "global_step": 3}, folder / "model.ckpt")
    return folder / "model.ckpt"


@pytest.mark.parametrize("kind", ["diffusers", "bin", "old", "old bin", "ldm .safetensors", "ldm .pt", "ldm .ckpt"])
def test_every_format_gives_the_same_network(vae, tmp_path, kind):
    loaded = models.load(written(vae, kind, tmp_path))
    x, z = torch.rand(1, 3, 32, 32) * 2 - 1, torch.randn(1, 4, 8, 8)
    assert torch.equal(loaded.encode(x).latent_dist.parameters, vae.encode(x).latent_dist.parameters)
    assert torch.equal(loaded.decode(z).sample, vae.decode(z).sample)
    assert loaded.config.scaling_factor == 0.18215
    if kind in ("diffusers", "bin", "old", "old bin"):
        theirs = AutoencoderKL.from_pretrained(tmp_path)
        assert torch.equal(loaded.decode(z).sample, theirs.decode(z).sample)


def test_ldm_names_are_those_diffusers_converts(vae):
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    theirs = convert_ldm_vae_checkpoint(to_ldm(vae.state_dict()), vae.config)
    assert theirs.keys() == vae.state_dict().keys()
    assert all(torch.equal(value, vae.state_dict()[name]) for name, value in theirs.items())


@pytest.fixture(scope="module")
def f16d32():
    """VA-VAE's architecture but for its widths: 16 times smaller latents of 32 channels, attention among the last blocks."""
    plain, up = ["DownEncoderBlock2D"] * 4, ["UpDecoderBlock2D"] * 4
    made = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=32, block_out_channels=(32, 32, 64, 64, 128), layers_per_block=2,
        norm_num_groups=32, down_block_types=(*plain, "AttnDownEncoderBlock2D"), up_block_types=("AttnUpDecoderBlock2D", *up),
    )  # fmt: skip
    models.initialise(made, 0)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("kind", ["diffusers", "ldm .safetensors", "ldm .ckpt"])
def test_a_16_fold_32_channel_autoencoder_comes_in(f16d32, tmp_path, kind):
    loaded = models.load(written(f16d32, kind, tmp_path))
    x, z = torch.rand(1, 3, 64, 64) * 2 - 1, torch.randn(1, 32, 4, 4)
    assert torch.equal(loaded.encode(x).latent_dist.parameters, f16d32.encode(x).latent_dist.parameters)
    assert loaded.encode(x).latent_dist.mean.shape == z.shape
    assert torch.equal(loaded.decode(z).sample, f16d32.decode(z).sample)
    names = set(to_ldm(f16d32.state_dict()))  # VA-VAE's published names, of each kind
    assert {"encoder.down.4.attn.1.q.weight", "decoder.up.4.attn.2.proj_out.bias", "encoder.mid.attn_1.norm.weight"} <= names


def test_an_ldm_file_of_sd_vae_has_its_configuration():
    with torch.device("meta"):
        full = models.build(256, 4, (128, 256, 512, 512), 2, 32)
    names = set(to_ldm(full.state_dict()))
    # LDM's published names, of each kind.
    assert {
        "encoder.conv_in.weight", "encoder.down.1.block.0.nin_shortcut.weight", "encoder.down.2.downsample.conv.bias",
        "encoder.mid.attn_1.proj_out.weight", "decoder.up.3.upsample.conv.weight", "decoder.up.0.block.2.conv1.weight",
        "decoder.norm_out.weight", "quant_conv.weight", "post_quant_conv.bias",
    } <= names  # fmt: skip
    assert len(names) == 248


def broken(vae, folder, how: str):
    if how == "no config":
        vae.save_pretrained(folder)
        (folder / "config.json").unlink()
    elif how == "a pipeline":
        vae.save_pretrained(folder / "vae")
    elif how == "config torn":
        vae.save_pretrained(folder)
        (folder / "config.json").write_text('{"_class_name": "Auto')
    elif how == "another class":
        vae.save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps({"_class_name": "VQModel"}))
    elif how == "no weights":
        vae.save_pretrained(folder)
        (folder / models.WEIGHTS).unlink()
    elif how == "truncated":
        vae.save_pretrained(folder)
        path = folder / models.WEIGHTS
        path.write_bytes(path.read_bytes()[:-1000])
    elif how == "other channels":
        vae.save_pretrained(folder)
        settings = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(settings | {"latent_channels": 8}))
    elif how == "NaN":
        vae.save_pretrained(folder)
        state = vae.state_dict() | {"decoder.conv_out.bias": torch.tensor([0.0, float("nan"), 0.0])}
        (folder / models.WEIGHTS).unlink()
        torch.save(state, folder / f"{models.STEM}.bin")
    elif how == "objects":
        torch.save({"state_dict": vae.state_dict(), "callbacks": models.LatentStatistics()}, folder / "vae.ckpt")
        return folder / "vae.ckpt"
    elif how == "no autoencoder":
        torch.save({"blocks.0.weight": torch.zeros(3)}, folder / "vae.pt")
        return folder / "vae.pt"
    elif how == "weights alone":
        torch.save(vae.state_dict(), folder / "vae.pt")
        return folder / "vae.pt"
    elif how == "empty file":
        (folder / "vae.safetensors").touch()
        return folder / "vae.safetensors"
    return folder


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no config", "no config.json"),
        ("a pipeline", r"is it .*vae\?"),
        ("config torn", "not a JSON object"),
        ("another class", "VQModel, expected an AutoencoderKL"),
        ("no weights", "neither"),
        ("truncated", "damaged or truncated"),
        ("other channels", "has shape"),
        ("NaN", "decoder.conv_out.bias has 1 values that are NaN"),
        ("objects", "could run code"),
        ("no autoencoder", "no autoencoder of LDM's kl family"),
        ("weights alone", "holds their config.json too"),
        ("empty file", "damaged or truncated"),
    ],
)
def test_what_is_broken_is_refused_in_one_line(vae, tmp_path, how, said):
    with pytest.raises(ValueError, match=said) as caught:
        models.load(broken(vae, tmp_path, how))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_name_that_is_nowhere_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="no such file or folder"):
        models.load("nobody/no-such-autoencoder")
    with pytest.raises(ValueError, match="no such file or folder"):
        models.load(tmp_path / "missing" / "vae")


def test_half_precision_weights_are_read_as_float32(vae, tmp_path):
    half = AutoencoderKL.from_config(vae.config).half()
    half.load_state_dict(vae.state_dict())
    half.save_pretrained(tmp_path)
    assert {p.dtype for p in models.load(tmp_path).parameters()} == {torch.float32}


def test_rescaled_latents_are_the_same_autoencoder(vae, tmp_path):
    vae.save_pretrained(tmp_path)
    scaled = models.load(tmp_path)
    models.rescale_latents(scaled, 0.18215)
    x, noise = torch.rand(4, 3, 32, 32) * 2 - 1, torch.randn(4, 4, 8, 8)
    before, after = vae.encode(x).latent_dist, scaled.encode(x).latent_dist
    torch.testing.assert_close(after.mean, 0.18215 * before.mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(after.std, 0.18215 * before.std, rtol=1e-5, atol=1e-6)
    first = vae.decode(before.mean + before.std * noise).sample
    torch.testing.assert_close(scaled.decode(after.mean + after.std * noise).sample, first, rtol=1e-5, atol=1e-5)
    assert scaled.config.scaling_factor == pytest.approx(1.0)


def test_rescaled_by_its_own_statistics_it_has_unit_variance(vae, tmp_path):
    vae.save_pretrained(tmp_path)
    scaled, x = models.load(tmp_path), torch.rand(16, 3, 32, 32) * 2 - 1
    statistics = models.LatentStatistics()
    statistics.add(*models.moments(vae, x))
    models.rescale_latents(scaled, 1 / statistics.std)
    mean, logvar = models.moments(scaled, x)
    again = models.LatentStatistics()
    for part in range(0, 16, 4):  # in whatever batches
        again.add(mean[part : part + 4], logvar[part : part + 4])
    assert again.std == pytest.approx(1, abs=1e-5)
    sampled = mean + torch.exp(0.5 * logvar) * torch.randn(200, *mean.shape)
    assert float(sampled.std()) == pytest.approx(1, abs=0.01)
    torch.testing.assert_close(sampled.mean(dim=(0, 1, 3, 4)).double(), again.channel_mean, atol=0.01, rtol=0)
    torch.testing.assert_close(sampled.transpose(0, 2).flatten(1).std(dim=1).double(), again.channel_std, atol=0.01, rtol=0)
