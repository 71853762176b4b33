"""Weights looked at before the first job: each file broken in turn gives one line that says what to do."""

import hashlib

import numpy as np
import pytest

from reals import files
from reals.experiment.networks import PretrainedBase
from reals.experiment.reading import ConfigError
from reals.planning.preflight import weights


def test_stated_files(tmp_path):
    there = tmp_path / "w.safetensors"
    there.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert weights.stated_file("x.weights", str(there), digest).endswith("as stated")
    assert "none is stated" in weights.stated_file("x.weights", str(there), None)
    with pytest.raises(ConfigError, match=f"x.weights: .*sha256 is {digest}, expected 00"):
        weights.stated_file("x.weights", str(there), "00")
    with pytest.raises(ConfigError, match="no such file"):
        weights.stated_file("x.weights", str(tmp_path / "other"), None)
    whole = tmp_path / "reference.npz"
    np.savez(whole, arr_0=np.zeros(3), mu=0, sigma=0, mu_s=0, sigma_s=0)
    assert weights.stated_file("evaluation.reference", str(whole), None)
    cut = tmp_path / "cut.npz"
    cut.write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(ConfigError, match=r"not a whole .npz file"):
        weights.stated_file("evaluation.reference", str(cut), None)
    np.savez(cut, arr_0=np.zeros(3))
    with pytest.raises(ConfigError, match=r"lacks mu.npy, mu_s.npy, sigma.npy, sigma_s.npy"):
        weights.stated_file("evaluation.reference", str(cut), None)


def test_a_base_folder(tmp_path):
    import torch
    from safetensors.torch import save_file

    base = PretrainedBase(kind="diffusers", path=str(tmp_path))
    with pytest.raises(ConfigError, match=r"lacks config.json or diffusion_pytorch_model"):
        weights.diffusers_base("bases.x", base)
    (tmp_path / "config.json").write_text("{}")
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file({"a": torch.zeros(1000)}, path)
    assert files.sha256(path)[:16] in weights.diffusers_base("bases.x", base)
    (tmp_path / "config.json").write_text('{"latents_std": [1.5, 1]}')
    with pytest.raises(
        ConfigError, match=r"bases.x.path: .* has latents_std \[1.5, 1\]; expected 4 numbers, one for each channel"
    ):
        weights.diffusers_base("bases.x", base)
    (tmp_path / "config.json").write_text("{}")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="is damaged"):
        weights.diffusers_base("bases.x", base)


def test_a_download_that_is_there_is_compared_with_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    content = b"some weights"
    digest = hashlib.sha256(content).hexdigest()
    url = f"https://host.invalid/net-{digest[:8]}.pth"
    with pytest.raises(ConfigError, match=r"no such file, and host.invalid is out of reach"):
        weights._torch_download(url, "x.weights")
    path = tmp_path / "hub/checkpoints" / url.rsplit("/", 1)[1]
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert "as its name says" in weights._torch_download(url, "x.weights")
    path.write_bytes(content[:-1])
    with pytest.raises(ConfigError, match="does not begin as its name says"):
        weights._torch_download(url, "x.weights")


def test_weights_of_a_hub_without_network(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ConfigError, match=r"teachers.x: nobody/nothing is not in the hub's cache .* run `reals fetch` where there is a network"
    ):
        weights.hub_weights("teachers.x", "nobody/nothing", "model.safetensors")
    with pytest.raises(ConfigError, match=r"bases.x: nobody/nothing is not in .*, or give path: a local folder or file"):
        weights.diffusers_base("bases.x", PretrainedBase(kind="diffusers", path="nobody/nothing"))
