"""`reals sample`: the same images however they are cut into batches, shards and processes; mistakes are one line."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from PIL import Image

from reals import files, rng
from reals.cli.main import main
from reals.cli.sample import labels
from reals.data.latent_scale import LatentScale
from reals.experiment.sampler_table import samplers_of
from reals.machine import compiler
from reals.method import ddpm, guidance, samplers, sampling
from reals.method.models import autoencoder
from reals.method.models.transformer import Transformer, TransformerConfig, initialise
from reals.method.sampling import Sampling, draw

SCALING = 0.7
CONFIG = TransformerConfig(width=32, depth=1, heads=2, patch=2, latent_channels=4, latent_size=4, classes=10, learn_sigma=True)


def network(config: TransformerConfig = CONFIG) -> Transformer:
    model, generator = Transformer(config), rng.generator(0, "weights")
    initialise(model, generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "pos_embed":
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with an autoencoder, a foreign raw checkpoint, and a tree like our own results."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("made")
    vae = autoencoder.build(8, 4, (8, 8), 1, 4)
    autoencoder.initialise(vae, 0)
    autoencoder.save(vae, SCALING, folder / "vae")
    autoencoder.save(vae, 0.3, folder / "own/autoencoders/ae-1")  # not what the run's latents were scaled by
    model = network()
    torch.save(model.state_dict(), folder / "a.pt")
    (folder / "names.txt").write_text("\n".join(["tench, Tinca tinca", "crane", "crane", *"defghij"]) + "\n")
    run = folder / "own/runs/sit-1"
    run.mkdir(parents=True)
    facts = {"family": "SiT", "step": 5, "config": asdict(CONFIG), "scaling_factor": SCALING, "autoencoder": "ae-1"}
    save_file(model.state_dict(), run / "step_5.safetensors", metadata={"reals": json.dumps(facts)})
    for path, content in {
        "runs/sit-1/spec.json": {"latents": "ae-1"},
        "latents/ae-1/spec.json": {"data": "d-1"},
        "data/d-1/index.json": {"classes": list("abcdefghij")},
    }.items():
        (folder / "own" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "own" / path).write_text(json.dumps(content))
    return folder


def command(made: Path, *arguments) -> list[str]:
    return ["sample", str(made / "a.pt"), "--vae", str(made / "vae"), "--family", "sit", "--heads", "2", *map(str, arguments)]


def sample(made: Path, *arguments) -> None:
    assert main(command(made, "--steps", 4, *arguments)) == 0


def images(path: Path) -> np.ndarray:
    with np.load(path) as saved:
        assert saved["arr_0"].dtype == np.uint8 and saved["arr_1"].dtype == np.int64
        assert len(saved["arr_0"]) == len(saved["arr_1"])
        return saved["arr_0"]


def close(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal up to rounding to bytes of what batching rounds differently."""
    return a.shape == b.shape and np.abs(a.astype(int) - b).max() <= 1


@pytest.fixture(scope="module")
def whole(made) -> np.ndarray:
    """Eleven images of random classes, drawn in one go."""
    sample(made, "--random", 11, "--cfg", 1.5, "--npz", made / "whole.npz")
    return images(made / "whole.npz")


def test_the_images_are_the_sampler_s(made, whole):
    vae = autoencoder.load(made / "vae")
    model = network()
    y = torch.from_numpy(sampling.random_labels(0, range(11), 10))
    noise = samplers.per_sample_noise(0, range(11), (4, 4, 4), "sample start")(0)
    noise_at = samplers.per_sample_noise(0, range(11), (4, 4, 4), "sample noise")
    with torch.no_grad():
        z = samplers.euler_maruyama(guidance.guided(model, y, 1.5, null=10, channels=3), noise, 4, noise_at)
        expected = (127.5 * vae.decode(z / SCALING).sample + 128).clamp(0, 255).to(torch.uint8)
    assert close(whole, expected.permute(0, 2, 3, 1).numpy())
    with np.load(made / "whole.npz") as saved:
        assert saved["arr_1"].tolist() == y.tolist()
    assert len({image.tobytes() for image in whole}) == 11
    facts = json.loads((made / "whole.npz.json").read_text())
    assert facts["cfg"] == 1.5 and facts["scaling_factor"] == SCALING and facts["labels"] == "random"


def test_channels_are_scaled_back_by_their_own_mean_and_std(made, whole, tmp_path):
    """Of the autoencoder's folder for a foreign checkpoint, of the checkpoint's own facts for one of ours."""
    from safetensors.torch import save_file

    vae, scale = autoencoder.load(made / "vae"), LatentScale(1.0, (0.5, 0.0, -0.5, 0.1), (2.0, 1.0, 0.5, 1.0))
    autoencoder.save(vae, scale, tmp_path / "normalised")
    sample(made, "--random", 3, "--cfg", 1.5, "--npz", tmp_path / "foreign.npz", "--vae", tmp_path / "normalised")
    y = torch.from_numpy(sampling.random_labels(0, range(3), 10))
    with torch.no_grad():
        z = sampling.draw(network(), sampling.Sampling("sde", 4, cfg=1.5, cfg_channels=3), 0, y, [0, 1, 2], torch.device("cpu"))
        mean, std = (torch.tensor(values)[:, None, None] for values in (scale.mean, scale.std))
        expected = (127.5 * vae.decode(z * std + mean).sample + 128).clamp(0, 255).to(torch.uint8)
    assert close(images(tmp_path / "foreign.npz"), expected.permute(0, 2, 3, 1).numpy())
    facts = {"family": "SiT", "step": 5, "config": asdict(CONFIG), **scale.facts(), "autoencoder": "vae"}
    save_file(network().state_dict(), tmp_path / "ours.safetensors", metadata={"reals": json.dumps(facts)})
    arguments = ["sample", tmp_path / "ours.safetensors", "--vae", made / "vae", "--steps", 4, "--random", 3, "--cfg", 1.5]
    assert main([str(a) for a in [*arguments, "--cfg-channels", 3, "--npz", tmp_path / "ours.npz"]]) == 0
    assert close(images(tmp_path / "ours.npz"), expected.permute(0, 2, 3, 1).numpy())
    said = json.loads((tmp_path / "ours.npz.json").read_text())
    assert said["latents_std"] == list(scale.std)


def test_batches_and_shards_make_the_same_images(made, whole, tmp_path):
    settings = ["--random", 11, "--cfg", 1.5]
    sample(made, *settings, "--batch", 4, "--npz", tmp_path / "batched.npz")
    assert close(images(tmp_path / "batched.npz"), whole)
    for shard, batch in ((2, 3), (0, 2), (1, 5)):  # on three nodes, of which two share a disk
        folder = tmp_path / ("other" if shard == 0 else "parts")
        sample(made, *settings, "--batch", batch, "--shard", f"{shard}/3", "--parts", folder, "--npz", tmp_path / "sharded.npz")
        assert not (tmp_path / "sharded.npz").exists()
    for part in (tmp_path / "other").glob("*.npz"):
        part.rename(tmp_path / "parts" / part.name)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").glob("*.npz")}
    sample(made, *settings, "--parts", tmp_path / "parts", "--npz", tmp_path / "sharded.npz")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").glob("*.npz")}  # merged, not drawn
    assert close(images(tmp_path / "sharded.npz"), whole)


@pytest.mark.process
def test_a_killed_run_goes_on(made, whole, tmp_path):
    out = tmp_path / "killed.npz"
    call = [
        sys.executable,
        "-m",
        "reals",
        *command(made, "--steps", 150, "--random", 11, "--cfg", 1.5, "--batch", 1, "--npz", out),
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    parts = Path(f"{out}.parts")
    until = time.monotonic() + 60
    while len(list(parts.glob("[0-9]*.npz"))) < 2 and time.monotonic() < until and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = {path: path.stat().st_mtime_ns for path in parts.glob("[0-9]*.npz")}
    assert 2 <= len(done) < 11 and not out.exists()
    assert main([*call[3:], "--batch", "11"]) == 0
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    assert main([*call[3:-1], str(tmp_path / "whole.npz"), "--batch", "11"]) == 0
    assert close(images(out), images(tmp_path / "whole.npz"))


def test_more_of_the_same_keeps_what_is_there(made, whole, tmp_path):
    arguments = ["--cfg", 1.5, "--parts", tmp_path / "parts", "--npz", tmp_path / "a.npz"]
    sample(made, "--random", 4, *arguments)
    sample(made, "--random", 11, "--batch", 3, *arguments)
    assert close(images(tmp_path / "a.npz"), whole)
    sample(made, "--random", 6, *arguments)
    assert close(images(tmp_path / "a.npz"), whole[:6])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--cfg", "2"], "cfg 1.5, now it is 2.0"),
        (["--seed", "1"], "seed 0, now it is 1"),
        (["--interval", "0,0.75"], r"interval \[0.0, 1.0\], now it is \[0.0, 0.75\]"),
        (["--scaling-factor", "1"], "scaling_factor 0.7, now it is 1.0"),
        (["--precision", "bf16"], "precision fp32, now it is bf16"),
        (["--balanced", "2"], "labels random, now it is balanced"),
    ],
)
def test_settings_do_not_mix(made, tmp_path, capsys, change, named):
    import re

    settings = ["--cfg", "1.5", "--grid", tmp_path / "a.png"]
    sample(made, *settings, "--random", "2")
    labels = [] if "--balanced" in change else ["--random", "2"]
    assert main(command(made, "--steps", 4, *settings, *labels, *change)) == 2
    assert re.search(f"holds images made with {named}", capsys.readouterr().err)


def test_a_damaged_part_is_named(made, tmp_path, capsys):
    sample(made, "--random", 3, "--grid", tmp_path / "a.png")
    part = next((tmp_path / "a.png.parts").glob("[0-9]*.npz"))
    part.write_bytes(part.read_bytes()[:-200])
    assert main(command(made, "--steps", 4, "--random", 3, "--grid", tmp_path / "a.png")) == 2
    assert f"{part}: damaged" in capsys.readouterr().err


def test_own_runs_know_their_autoencoder_scale_and_names(made, tmp_path, capsys):
    own = str(made / "own/runs/sit-1/step_5.safetensors")
    assert (
        main(["sample", own, "--steps", "4", "--classes", "c,9", "--n", "3", "--cfg", "1", "--npz", str(tmp_path / "own.npz")])
        == 0
    )
    said = capsys.readouterr().out
    assert "ae-1, which it was trained on" in said and "latents divided by 0.7" in said
    with np.load(tmp_path / "own.npz") as saved:
        assert saved["arr_1"].tolist() == [2, 9] * 3
    sample(made, "--classes", "2,9", "--n", 3, "--cfg", 1, "--npz", tmp_path / "foreign.npz")
    assert close(images(tmp_path / "own.npz"), images(tmp_path / "foreign.npz"))


IMAGENET = ["tench, Tinca tinca", "goldfish, Carassius auratus", "crane", "crane"]
NUMBERED = ["1", "10", "11", "2", "3"]  # folders in order of name


@pytest.mark.parametrize(
    ("names", "text", "expected"),
    [
        (IMAGENET, "tench, Tinca tinca", [0]),
        (IMAGENET, "Tench,tinca tinca,1", [0, 1]),
        (IMAGENET, "goldfish, tench", [1, 0]),
        (IMAGENET, "#3, 2", [3, 2]),
        (IMAGENET, "Tinca tinca, tench", [0]),
        (IMAGENET, "tench, tench", [0, 0]),
        (IMAGENET, "0, tench, #0", [0, 0, 0]),
        (["great white shark, white shark, man-eater", "b"], "White shark, man-eater, b, white shark", [0, 1, 0]),
        (["a", "A"], "A,a", [1, 0]),
        (["cafe\u0301", "tea"], "caf\u00e9", [0]),
        (["0-4", "5-9", "10-14"], "5-9,#2", [1, 2]),
        (["#tag", "\u00b2"], "#tag,\u00b2", [0, 1]),
        (NUMBERED, "3, 10", [4, 1]),
        (NUMBERED, "#3, #0", [3, 0]),
        (None, "3,#4", [3, 4]),
    ],
)
def test_names_of_classes_win_over_their_numbers(names, text, expected):
    assert labels._chosen(text, len(names or range(5)), names) == expected


@pytest.mark.parametrize(
    "names", [NUMBERED, ["-1", "-2", "-3"], ["0-4", "5-9"], ["007", "008"], ["1.0", "2.0"], ["747-8", "A300"]]
)
def test_a_number_that_is_no_name_is_refused_where_names_are_numbers(names):
    with pytest.raises(ValueError, match="no class is called 4, and names here are numbers; class number 4 is written #4"):
        labels._chosen("4", 5, names)


def test_a_name_that_looks_like_the_number_of_another_class_is_refused():
    with pytest.raises(ValueError, match="#1 is class number 1, and the name of another"):
        labels._chosen("#1", 2, ["#1", "#0"])


def test_what_is_drawn_is_printed():
    assert labels.printed(np.array([4, 1, 4, 1]), NUMBERED) == "#4 3, #1 10"
    assert labels.printed(np.arange(20), None).endswith("#11 and 8 more")


def test_own_runs_are_found_from_inside_their_folder_and_names_may_begin_with_a_mark(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(made / "own/runs/sit-1")
    drawn = ["--steps", "4", "--n", "1", "--cfg", "1", "--npz", str(tmp_path / "own.npz")]
    assert main(["sample", "step_5.safetensors", "--classes", "c", *drawn]) == 0
    said = capsys.readouterr().out
    assert "ae-1, which it was trained on" in said and "classes #2 c" in said
    (tmp_path / "names.txt").write_text("\n".join("0123456789").replace("0", "zero"), encoding="utf-8-sig")
    named = ["--class-names", str(tmp_path / "names.txt")]
    assert main(["sample", "step_5.safetensors", "--classes", "zero", *named, *drawn[:-1], str(tmp_path / "other.npz")]) == 0


def test_own_runs_are_found_from_beside_their_folder_and_through_links(made, tmp_path, monkeypatch, capsys):
    """By `..`, by a link to the file, and where the run's folder is a link to another disk."""
    run = made / "own/runs/sit-1"
    (made / "own/runs/other").mkdir(exist_ok=True)
    monkeypatch.chdir(made / "own/runs/other")
    (tmp_path / "best.safetensors").symlink_to(run / "step_5.safetensors")
    tree = tmp_path / "own"
    (tree / "runs").mkdir(parents=True)
    for name in ("autoencoders", "latents", "data"):
        (tree / name).symlink_to(made / "own" / name)
    shutil.copytree(run, tmp_path / "disk/sit-1")
    (tree / "runs/sit-1").symlink_to(tmp_path / "disk/sit-1")
    for i, path in enumerate(
        ("../sit-1/step_5.safetensors", tmp_path / "best.safetensors", tree / "runs/sit-1/step_5.safetensors")
    ):
        drawn = ["--classes", "c", "--steps", "4", "--n", "1", "--cfg", "1", "--npz", str(tmp_path / f"{i}.npz")]
        assert main(["sample", str(path), *drawn]) == 0
        said = capsys.readouterr().out
        assert "ae-1, which it was trained on" in said and "classes #2 c" in said and "NOTE" not in said


@pytest.mark.slow
def test_a_grid_has_one_column_a_class(made, tmp_path):
    sample(made, "--classes", "tench,1", "--class-names", made / "names.txt", "--n", 3, "--cfg", 4, "--grid", tmp_path / "g.png",
           "--npz", tmp_path / "g.npz")  # fmt: skip
    drawn = images(tmp_path / "g.npz")
    page = np.asarray(Image.open(tmp_path / "g.png"))
    assert page.shape == (24, 16, 3)
    assert np.array_equal(page[8:16, 8:], drawn[3])


def test_a_scaling_factor_nobody_states_is_stable_diffusion_s(made, tmp_path, capsys):
    shutil.copytree(made / "vae", tmp_path / "vae")
    config = json.loads((tmp_path / "vae/config.json").read_text())
    del config["scaling_factor"]
    (tmp_path / "vae/config.json").write_text(json.dumps(config))
    sample(made, "--vae", tmp_path / "vae", "--random", 1, "--grid", tmp_path / "a.png")
    said = capsys.readouterr().out
    assert "scaling factor 0.18215, Stable Diffusion's" in said and "latents divided by 0.18215" in said


def test_our_own_runs_are_sampled_on_the_path_they_were_trained_on(made, tmp_path, capsys):
    from safetensors.torch import save_file

    facts = {"family": "SiT", "config": asdict(CONFIG), "scaling_factor": SCALING, "autoencoder": "vae", "interpolant": "vp"}
    save_file(network().state_dict(), tmp_path / "a.safetensors", metadata={"reals": json.dumps(facts)})
    old = facts.copy()
    del old["interpolant"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run/spec.json").write_text(json.dumps({"path": "vp"}))
    save_file(network().state_dict(), tmp_path / "run/old.safetensors", metadata={"reals": json.dumps(old)})
    for file in ("a.safetensors", "run/old.safetensors"):
        call = ["sample", str(tmp_path / file), "--vae", str(made / "vae"), "--steps", "4", "--random", "1", "--sampler", "ode"]
        assert main([*call, "--grid", str(tmp_path / "a.png")]) == 0
        assert "ODE Heun, vp path up to t = 0.999, 4 evaluations" in capsys.readouterr().out
        assert files.read_json(tmp_path / "a.png.parts/settings.json")["end"] == 0.999
        assert main([*call, "--path", "linear", "--grid", str(tmp_path / "b.png")]) == 2
        assert "was trained on the vp path; leave it out" in capsys.readouterr().err


@pytest.mark.parametrize("sampler", samplers_of("SiT"))
def test_each_flow_sampler_draws_by_index_alone(sampler):
    settings = Sampling(sampler=sampler, steps=4, cfg=2.0, cfg_channels=3, interval=(0.0, 0.7))
    settings.check("SiT", CONFIG)
    drawn = _by_index(settings)
    if sampler == "euler":
        y = torch.tensor([3, 4, 5, 6])
        field = guidance.guided(network(), y, 2.0, null=10, channels=3, interval=(0.0, 0.7))
        noise = samplers.per_sample_noise(5, range(4), (4, 4, 4), "sample start")(0)
        torch.testing.assert_close(drawn, samplers.euler(field, noise, 4))


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_each_diffusion_sampler_draws_by_index_alone(sampler):
    settings = Sampling(sampler=sampler, steps=4, cfg=2.0, cfg_channels="all")
    settings.check("DiT", CONFIG)
    drawn = _by_index(settings)
    if sampler == "ddim":
        y = torch.tensor([3, 4, 5, 6])
        field = guidance.guided_noise(network(), y, 2.0, null=10, channels="all")
        noise = samplers.per_sample_noise(5, range(4), (4, 4, 4), "sample start")(0)
        torch.testing.assert_close(drawn, samplers.ddim(field, noise, ddpm.respace(ddpm.linear_schedule(), 4), 0.0))


def _by_index(settings: Sampling) -> torch.Tensor:
    """Samples 0..3, drawn together, after checking them against other company."""
    model, y, cpu = network(), torch.tensor([3, 4, 5, 6]), torch.device("cpu")
    with torch.no_grad():
        together = draw(model, settings, 5, y, [0, 1, 2, 3], cpu)
        apart = torch.cat([draw(model, settings, 5, y[k : k + 2], [k, k + 1], cpu) for k in (0, 2)])
    assert torch.isfinite(together).all()
    torch.testing.assert_close(apart, together, rtol=1e-4, atol=1e-5)
    return together


def test_bf16_is_autocast_and_close():
    model, x = network(), torch.randn(2, 4, 4, 4, generator=rng.generator(0, "x"))
    t, y = torch.tensor([0.1, 0.7]), torch.tensor([1, 2])
    with torch.no_grad():
        exact = model(x, t, y)
        with torch.autocast("cpu", torch.bfloat16):
            expected = model(x, t, y).float()
        fast = sampling.InPrecision(model, "bf16")(x, t, y)
    assert fast.dtype == torch.float32
    assert torch.equal(fast, expected)
    assert 0 < (fast - exact).abs().max() < 0.03 * exact.abs().max()


BAD = {
    "wrong class": (["--classes", "10"], "classes 0 to 9"),
    "unknown name": (["--classes", "zebra", "--class-names", "names.txt"], "'zebra': no class has this name"),
    "two of a name": (["--classes", "crane", "--class-names", "names.txt"], "classes 1, 2; give the id, as #1"),
    "name without file": (["--classes", "tench"], "give --class-names FILE"),
    "names of others": (["--class-names", "few.txt"], "2 names, but"),
    "interval order": (["--interval", "0.75,0.2"], r"got \[0.75, 0.2\], expected 0 <= low <= high <= 1"),
    "interval text": (["--interval", "all"], "expected two numbers"),
    "interval time alone": (["--interval-time", "data"], "give both"),
    "eta": (["--sampler", "ode", "--eta", "0.5"], "--eta means nothing"),
    "endless cfg": (["--cfg", "inf"], "expected a finite number"),
    "one step of ode": (["--sampler", "ode", "--steps", "2"], "expected at least 4"),
    "SBDM": (["--form", "SBDM"], "'SBDM' is infinite at t = 0"),
    "unknown form": (["--form", "sigmas"], "diffusion form: got 'sigmas'"),
    "last step": (["--last-step", "none", "--last-size", "0.1"], "expected 0"),
    "steps": (["--steps", "1"], "expected at least 2"),
    "odd ode": (["--sampler", "ode", "--steps", "5"], "expected an even number"),
    "other family's sampler": (["--sampler", "ddpm"], "a SiT network takes sde"),
    "form of no sde": (["--sampler", "ode", "--form", "sigma"], "--form means nothing to the sampler ode"),
    "steps of dopri5": (["--sampler", "dopri5", "--steps", "5"], "--steps means nothing to the sampler dopri5"),
    "negative cfg": (["--cfg", "-1"], "expected at least 0"),
    "npz without cfg": (["--npz", "a.npz"], "give --cfg"),
    "npz name": (["--npz", "a.zip", "--cfg", "1"], r"a\.zip: expected a name that ends in \.npz"),
    "shard": (["--shard", "3/3"], "expected K from 0 to N - 1"),
    "shard text": (["--shard", "third"], "expected K/N"),
    "parts in a file": (["--parts", "names.txt"], "names.txt: is a file; give a folder with --parts"),
    "grid below a file": (["--grid", "names.txt/a.png"], "cannot be written .*; give another place with --grid"),
    "device": (["--device", "tpu9"], "--device tpu9"),
    "n": (["--n", "0"], "expected at least 1"),
    "n of random": (["--random", "3", "--n", "2"], "take their own number"),
    "batch": (["--batch", "0"], "--batch: got 0"),
    "no autoencoder": (["--vae", "nowhere"], "--vae nowhere: no such file or folder"),
    "folder without config": (["--vae", "."], "no config.json"),
    "shifted latents": (["--vae", "shifted"], r"--vae shifted/config.json: has latents_mean \[0.5, 0\]; expected 4 numbers"),
    "channels": (["--vae", "vae3"], "3 latent channels, but .* makes 4"),
    "scale": (["--scaling-factor", "0"], "expected a positive number"),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_one_line(made, tmp_path, monkeypatch, capsys, name):
    import re

    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text((made / "names.txt").read_text())
    (tmp_path / "few.txt").write_text("a\nb\n")
    autoencoder.save(autoencoder.build(8, 3, (8, 8), 1, 4), 1.0, tmp_path / "vae3")
    shifted = autoencoder.build(8, 4, (8, 8), 1, 4)
    shifted.register_to_config(latents_mean=[0.5, 0], latents_std=[1, 1, 1, 1])
    autoencoder.save(shifted, None, tmp_path / "shifted")
    arguments, message = BAD[name]
    assert main(command(made, "--grid", "a.png", *arguments)) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert re.search(message, said[-1]), said
    assert said[-1].startswith("reals sample: ") and not any("Traceback" in line for line in said)
    assert not (tmp_path / "a.png").exists()


def test_without_a_compiler_it_is_said_before_the_network_is_loaded(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compiler, "missing", lambda gpu: ["a C++ compiler"])
    assert main(["sample", "none.safetensors", "--grid", str(tmp_path / "a.png"), "--compile"]) == 2
    [said] = capsys.readouterr().err.splitlines()
    assert said.startswith("reals sample: --compile: torch.compile needs a C++ compiler, not found here; install or load it")


def test_options_that_change_nothing_are_named(made, tmp_path, capsys):
    guided = ["--interval", "0,0.5", "--cfg-channels", "all"]
    sample(made, "--random", 1, "--cfg", 1, *guided, "--npz", tmp_path / "a.npz")
    assert "NOTE: without guidance (--cfg 1) --interval, --cfg-channels changes nothing" in capsys.readouterr().out
    sample(made, "--random", 1, "--cfg", 2, *guided, "--npz", tmp_path / "b.npz")
    assert "NOTE" not in capsys.readouterr().out


def test_parts_that_nobody_knows_the_settings_of_are_refused(made, tmp_path, capsys):
    call = command(made, "--random", 1, "--cfg", 1, "--npz", tmp_path / "a.npz")
    assert main(call) == 0
    parts = tmp_path / "a.npz.parts"
    (parts / "0000000_x.npz").touch()  # no part, so of no account
    assert main(call) == 0
    (parts / "settings.json").write_text('{"seed')
    assert main(call) == 2
    assert "its settings.json is damaged; give --parts another folder, or delete this one" in capsys.readouterr().err
    (parts / "settings.json").unlink()
    assert main(call) == 2
    assert "holds images, but no settings.json that says how they were made" in capsys.readouterr().err


def test_a_file_of_a_training_script_is_sampled_on_the_path_that_it_names(made, tmp_path, capsys):
    said = argparse.Namespace(model="SiT-S/2", path_type="GVP", prediction="velocity", train_eps=None)
    torch.save({"ema": network().state_dict(), "args": said}, tmp_path / "a.pt")
    call = [
        "sample",
        str(tmp_path / "a.pt"),
        "--family",
        "sit",
        "--heads",
        "2",
        "--vae",
        str(made / "vae"),
        "--steps",
        "4",
        "--random",
        "1",
    ]
    assert main([*call, "--cfg", "1", "--grid", str(tmp_path / "a.png")]) == 0
    assert "gvp path" in capsys.readouterr().out
    assert main([*call, "--path", "linear", "--grid", str(tmp_path / "b.png")]) == 2
    assert "was trained on the gvp path; leave it out" in capsys.readouterr().err


def test_export_says_what_the_file_cannot_and_overwrites_no_weights(made, tmp_path, capsys):
    from safetensors.torch import save_file

    def own(path: str) -> Path:
        facts = {"family": "SiT", "config": asdict(CONFIG), "scaling_factor": SCALING, "autoencoder": "vae", "interpolant": path}
        save_file(network().state_dict(), tmp_path / f"{path}.safetensors", metadata={"reals": json.dumps(facts)})
        return tmp_path / f"{path}.safetensors"

    assert main(["export", str(own("gvp")), str(tmp_path / "a.pt")]) == 0
    said = capsys.readouterr().out
    assert "give SiT's code --path-type GVP" in said
    assert f"latents are divided by {SCALING:g} and decoded by vae; the references' scripts divide by 0.18215" in said
    assert main(["export", str(own("gvp")), str(tmp_path / "b.pt"), "--to", "repa"]) == 0
    assert "give REPA's code --path-type cosine" in capsys.readouterr().out
    whole = (tmp_path / "a.pt").read_bytes()
    for arguments, says in (
        ([own("vp"), tmp_path / "c.pt", "--to", "repa"], "trained on the vp path, which REPA's code has not; write it --to sit"),
        ([own("vp"), tmp_path / "c.pt", "--heads", "4"], "our own file says it has 2 heads, got 4; leave them out"),
        ([own("vp"), own("vp")], "is a file of torch.save, as the references' code loads it; call it .pt"),
        ([own("vp"), tmp_path / "c.npz"], "c.npz: what is written is a file of torch.save"),
        (
            [tmp_path / "a.pt", tmp_path / "a.pt", "--family", "sit", "--heads", "2"],
            "is read by this command, which would write over it",
        ),
    ):
        assert main(["export", *map(str, arguments)]) == 2
        assert says in capsys.readouterr().err
    assert (tmp_path / "a.pt").read_bytes() == whole and not (tmp_path / "c.pt").exists()


def test_guidance_needs_a_null_class(made, tmp_path, capsys):
    import dataclasses

    from safetensors.torch import save_file

    config = dataclasses.replace(CONFIG, label_dropout=0.0)
    facts = {"family": "SiT", "config": asdict(config), "scaling_factor": SCALING, "autoencoder": "vae"}
    path = tmp_path / "a.safetensors"
    save_file(network(config).state_dict(), path, metadata={"reals": json.dumps(facts)})
    call = ["sample", str(path), "--vae", str(made / "vae"), "--steps", "4", "--grid", str(tmp_path / "a.png")]
    assert main([*call, "--cfg", "2"]) == 2
    assert "no null class" in capsys.readouterr().err
    assert main([*call, "--cfg", "1"]) == 0


def test_no_last_step_needs_no_size(made, tmp_path):
    sample(made, "--random", 1, "--last-step", "none", "--cfg", 1, "--npz", tmp_path / "a.npz")
    facts = json.loads((tmp_path / "a.npz.json").read_text())
    assert (facts["last"], facts["last_size"]) == ("none", 0.0)


def test_nothing_to_write_is_said(made, capsys):
    assert main(command(made)) == 2
    assert "give --grid out.png and/or --npz" in capsys.readouterr().err


def test_export_goes_round(made, tmp_path):
    own = made / "own/runs/sit-1/step_5.safetensors"
    raw = {name: value + 1 for name, value in network().state_dict().items()}
    state = made / "own/states/sit-1/step_00000005.pt"
    state.parent.mkdir(parents=True)
    torch.save({"step": 5, "task": {"model": raw}}, state)
    assert main(["export", str(own), str(tmp_path / "a.pt")]) == 0
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    assert all(torch.equal(content["model"][name], value) for name, value in raw.items())
    settings = ["--vae", str(made / "vae"), "--steps", "4", "--random", "2", "--cfg", "1"]
    assert main(["sample", str(own), *settings, "--npz", str(tmp_path / "a.npz")]) == 0
    foreign = ["sample", str(tmp_path / "a.pt"), "--family", "sit", "--heads", "2", *settings, "--npz", str(tmp_path / "b.npz")]
    assert main(foreign) == 0
    assert np.array_equal(images(tmp_path / "a.npz"), images(tmp_path / "b.npz"))


def test_the_interval_is_counted_as_asked(made, tmp_path):
    drawn = {}
    for name, arguments in {
        "noise": ["--interval", "0.25,1"],
        "data": ["--interval", "0,0.75", "--interval-time", "data"],
        "other": ["--interval", "0,0.75"],
    }.items():
        sample(made, "--random", 3, "--cfg", 4, *arguments, "--npz", tmp_path / f"{name}.npz")
        drawn[name] = images(tmp_path / f"{name}.npz")
    assert close(drawn["noise"], drawn["data"]) and not close(drawn["noise"], drawn["other"])
