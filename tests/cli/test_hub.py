"""`reals export --to hub` and `reals import`: what others load as it is, what it says of itself, and what is refused on the way back."""

import json
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from small import tiny

from reals import files
from reals.cli.main import main
from reals.data.latent_scale import LatentScale
from reals.method import AlignNetworks, Transformer, TransformerConfig, checkpoints, initialise_transformer
from reals.method.models import autoencoder
from reals.rng import generator

CONFIG = TransformerConfig(width=32, depth=1, heads=2, patch=2, latent_channels=4, latent_size=8, classes=2, learn_sigma=True)
COMMAND = "snakemake results/own/runs/sit-1/step_5.safetensors --config scale=own"


def recorded(target: Path, **more) -> None:
    content = {"command": COMMAND, "scale": "own", "row": {"sheet": "runs.tsv", "model": "B/2"}, "python": "3.11.7",
               "packages": {"torch": "2.9"}, "attempts": [{"began": "2026-01-01", "device": "cpu", "code": "0.2.0"}]}  # fmt: skip
    files.write_json(target.parent / f"made/{target.name}.json", content | more)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """A scale's results: an aligned autoencoder, a run on it, and a measurement of each."""
    root = tmp_path_factory.mktemp("hub") / "results/own"
    ae, run = root / "autoencoders/reals-1", root / "runs/sit-1"
    names = autoencoder.save(tiny(), 0.5, ae) + autoencoder.save_align(AlignNetworks(4, 6, 2, 8, True, True), ae)
    files.write_json(ae / "spec.json", {"init": "base-1", "steps": 3})
    files.write_json(root / "autoencoders/base-1/spec.json", {"steps": 3})
    files.seal(ae, names)
    recorded(ae / "index.json")
    model = Transformer(CONFIG)
    initialise_transformer(model, torch.Generator().manual_seed(0))
    facts = {
        "family": "SiT",
        "step": 5,
        "config": asdict(CONFIG),
        "scaling_factor": 0.5,
        "autoencoder": "reals-1",
        "run": "sit-1",
    }
    run.mkdir(parents=True)
    save_file(model.state_dict(), run / "step_5.safetensors", metadata={"reals": json.dumps(facts)})
    recorded(run / "step_5.safetensors", sha256=files.sha256(run / "step_5.safetensors"))
    for path, content in (("runs/sit-1", {"latents": "l-1"}), ("latents/l-1", {"data": "d-1"})):
        files.write_json(root / path / "spec.json", content)
    files.write_json(root / "data/d-1/index.json", {"classes": ["one", "two"]})
    for name, weights, value in (
        ("sit", run / "step_5.safetensors", {"fid": 12.345}),
        ("reals", ae / autoencoder.WEIGHTS, {"psnr": 21.5}),
    ):
        result = {"kind": "evaluation" if name == "sit" else "autoencoder", "name": name, "id": f"{name}-1", "values": value, "curve": {},
                  "protocol": {"samples": 50, "feature extractor": "digits-cnn"}, "provenance": {"checkpoint_sha256": files.sha256(weights)}}  # fmt: skip
        files.write_json(root / f"metrics/{name}-1/metrics.json", result)
    other = result | {"name": "another", "id": "other-1", "provenance": {"checkpoint_sha256": "0" * 64}}
    files.write_json(root / "metrics/other-1/metrics.json", other)
    return root


@pytest.fixture(scope="module")
def shared(results, tmp_path_factory) -> Path:
    """Both as folders for the hub, made with a group's umask."""
    folder = tmp_path_factory.mktemp("shared")
    before = os.umask(0o002)
    try:
        assert main(["export", str(results / "autoencoders/reals-1"), str(folder / "vae"), "--to", "hub"]) == 0
        assert main(["export", str(results / "runs/sit-1/step_5.safetensors"), str(folder / "sit"), "--to", "hub"]) == 0
    finally:
        os.umask(before)
    return folder


def said(capsys) -> str:
    return capsys.readouterr().err.strip()


def test_diffusers_and_the_hub_take_an_autoencoders_folder_as_it_is(shared, results):
    theirs, ours = AutoencoderKL.from_pretrained(shared / "vae"), autoencoder.load(results / "autoencoders/reals-1")
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    assert torch.equal(theirs(x).sample, ours(x).sample) and theirs.config.scaling_factor == 0.5
    assert (
        autoencoder.load_align(shared / "vae") is not None and "ReaLS, arXiv:2502.00359" in (shared / "vae/README.md").read_text()
    )
    head = huggingface_hub.ModelCard.load(shared / "vae/README.md").data.to_dict()
    assert head == {"license": "apache-2.0", "library_name": "diffusers", "tags": ["reals", "autoencoder", "vae"]}


@pytest.mark.parametrize(
    "scale",
    [
        {},
        {"shift_factor": 0.25},
        {"latents_mean": [0.5, 0.0, -1.0, 2.0], "latents_std": [1.0, 2.0, 0.5, 4.0]},
        {"latents_std": [1.0, 2.0, 0.5, 4.0]},
        {"latents_mean": [0.5, 0.0, -1.0, 2.0]},
    ],
    ids=["factor", "shift", "channels", "std", "mean"],
)
def test_the_cards_example_scales_latents_as_the_transformer_has_them(scale, tmp_path, monkeypatch):
    """Whatever of diffusers' keys the config has."""
    monkeypatch.chdir(tmp_path)
    autoencoder.save(tiny(), 0.5, tmp_path / "vae")
    files.write_json(tmp_path / "vae/config.json", files.read_json(tmp_path / "vae/config.json") | scale)
    assert main(["export", str(tmp_path / "vae"), str(tmp_path / "out"), "--to", "hub", "--licence", "mit"]) == 0
    [code] = re.findall(r"```python\n(.*?)```", (tmp_path / "out/README.md").read_text(), re.DOTALL)
    z = torch.randn(2, 4, 8, 8, generator=generator(0, "latents"))
    found = {"z": z.clone()}
    exec("\n".join(line for line in code.splitlines() if "encode(images)" not in line), found)
    expected = LatentScale.of_config(files.read_json(tmp_path / "out/config.json")).scaled_(z.clone())
    torch.testing.assert_close(found["z"], expected)


def test_a_transformers_folder_brings_all_that_draws_images(shared, tmp_path, capsys):
    """Its autoencoder and its classes' names, with no word of either."""
    out, few = tmp_path / "a.png", ["--steps", "4", "--sampler", "ode", "--cfg", "1"]
    assert main(["sample", str(shared / "sit/model.safetensors"), "--grid", str(out), *few, "--classes", "two"]) == 0
    printed = capsys.readouterr().out
    assert out.is_file() and "#1 two" in printed and "NOTE" not in printed
    assert checkpoints.load(shared / "sit/model.safetensors").facts["step"] == 5
    assert json.loads((shared / "sit/config.json").read_text())["width"] == 32


def test_the_card_says_how_it_was_made_and_measured(shared):
    text = (shared / "sit/README.md").read_text()
    for there in (COMMAND, "FID (digits-cnn) | 12.3", "samples: 50", "model B/2", "torch 2.9", "reals import", "reals sample"):
        assert there in text
    assert "another" not in text and "psnr" not in text.lower()
    assert "PSNR (dB) | 21.5" in (shared / "vae/README.md").read_text()
    assert [r["name"] for r in json.loads((shared / "sit/metrics.json").read_text())["measured"]] == ["sit"]


def test_numbers_published_with_the_repository_serve_where_nothing_was_measured(results, tmp_path):
    root = tmp_path / "results/own"
    shutil.copytree(results, root, ignore=shutil.ignore_patterns("metrics"))
    shutil.copytree(results / "metrics", tmp_path / "results/published/own/metrics")
    assert main(["export", str(root / "runs/sit-1/step_5.safetensors"), str(tmp_path / "sit"), "--to", "hub"]) == 0
    assert "FID (digits-cnn) | 12.3" in (tmp_path / "sit/README.md").read_text()


def test_nothing_tells_where_or_on_what_it_was_made(results, tmp_path):
    """No absolute path, which has a user's name in it, and no host: of the command, the metrics, diffusers' config or the folder."""
    root, private = tmp_path / "results/own", "/home/alice/images"
    shutil.copytree(results, root)
    ae = root / "autoencoders/reals-1"
    config = files.read_json(ae / "config.json") | {"_name_or_path": "/home/alice/sd-vae"}
    files.write_json(ae / "config.json", config)
    files.seal(ae, ["config.json", autoencoder.WEIGHTS, "align.json", "align.safetensors"])
    recorded(
        ae / "index.json",
        command=f"{COMMAND} data={private}",
        attempts=[{"began": "1", "device": "d", "code": "c", "host": "alices"}],
    )
    metrics = files.read_json(root / "metrics/reals-1/metrics.json")
    files.write_json(root / "metrics/reals-1/metrics.json", metrics | {"protocol": metrics["protocol"] | {"reference": private}})
    assert main(["export", str(ae), str(tmp_path / "out/vae"), "--to", "hub"]) == 0
    for path in (tmp_path / "out/vae").iterdir():
        for told in (b"alice", str(tmp_path).encode()):
            assert told not in path.read_bytes(), path
    text = (tmp_path / "out/vae/README.md").read_text()
    assert "data=images" in text and 'from_pretrained("vae")' in text and "reference: images" in text


def test_the_card_of_a_va_vae_does_not_call_it_reals(tmp_path):
    autoencoder.save(tiny(), 0.5, tmp_path / "vae")
    autoencoder.save_align(AlignNetworks(4, 6, 1, 0, True, False, bias=False), tmp_path / "vae")
    assert main(["export", str(tmp_path / "vae"), str(tmp_path / "out"), "--to", "hub", "--licence", "mit"]) == 0
    text = (tmp_path / "out/README.md").read_text()
    assert "VA-VAE's loss, arXiv:2501.01423" in text and "2502.00359" not in text


def test_an_empty_folder_is_filled_where_it_stands(shared, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    assert main(["import", str(shared / "vae"), str(tmp_path / "link")]) == 0 and (tmp_path / "link").is_symlink()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(["import", str(shared / "vae"), "."]) == 0
    names = sorted(path.name for path in (shared / "vae").iterdir())
    assert sorted(path.name for path in Path().iterdir()) == sorted(path.name for path in (tmp_path / "empty").iterdir()) == names


def test_files_have_the_mode_that_the_umask_gives(shared):
    for path in shared.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o775 if path.is_dir() else 0o664), path


def test_an_import_is_what_was_exported(shared, tmp_path, capsys):
    for name in ("vae", "sit"):
        assert main(["import", str(shared / name), str(tmp_path / name)]) == 0
        there, here = (
            {str(p.relative_to(f)): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in (shared / name, tmp_path / name)
        )
        assert there == here
    entry = re.search(r"  bases:\n.*", capsys.readouterr().out)
    assert entry is not None
    (base,) = yaml.safe_load(entry[0])["bases"].values()
    digest = files.sha256(shared / "vae" / autoencoder.WEIGHTS)
    assert base == {"kind": "diffusers", "path": str(tmp_path / "vae"), "sha256": digest}


class Hub:
    """A hub in memory: what was asked of it, and what it does."""

    def __init__(self, monkeypatch, folder: Path | None = None, error: Exception | None = None):
        self.asked: list = []

        def act(*arguments, **options):
            self.asked.append(options or arguments)
            if error is not None:
                raise error
            return folder

        class Api:
            def create_repo(self, name, **options):
                return act(name) or f"https://huggingface.co/{name}"

            upload_folder = staticmethod(act)

        monkeypatch.setattr(huggingface_hub, "HfApi", Api)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", act)


def test_nothing_leaves_the_machine_without_push(results, tmp_path, monkeypatch):
    hub = Hub(monkeypatch)
    arguments = ["export", str(results / "autoencoders/reals-1"), str(tmp_path / "a"), "--to", "hub"]
    assert main(arguments) == 0 and hub.asked == []
    arguments[2] = str(tmp_path / "b")
    assert main([*arguments, "--push", "group/reals"]) == 0
    assert hub.asked[0] == ("group/reals",) and hub.asked[1]["folder_path"] == tmp_path / "b"
    assert 'from_pretrained("group/reals")' in (tmp_path / "b/README.md").read_text()


def test_a_push_that_fails_is_one_line_and_the_folder_stays(results, tmp_path, monkeypatch, capsys):
    Hub(monkeypatch, error=OSError("401 Unauthorized\nInvalid token"))
    arguments = ["export", str(results / "autoencoders/reals-1"), str(tmp_path / "a"), "--to", "hub", "--push", "group/reals"]
    assert main(arguments) == 2
    line = said(capsys)
    assert "\n" not in line and "401 Unauthorized Invalid token" in line and f"hf upload group/reals {tmp_path / 'a'}" in line
    assert main(["import", str(tmp_path / "a"), str(tmp_path / "b")]) == 0


def test_one_is_taken_back_by_name_and_revision(shared, tmp_path, monkeypatch, capsys):
    hub = Hub(monkeypatch, folder=shared / "sit")
    assert main(["import", "group/sit", str(tmp_path / "a"), "--revision", "v1"]) == 0
    assert hub.asked[0]["revision"] == "v1" and not any(
        "bin" in p or "pt" in p.split(".") for p in hub.asked[0]["allow_patterns"]
    )
    Hub(monkeypatch, error=OSError("no network"))
    assert main(["import", "group/sit", str(tmp_path / "b")]) == 2
    assert (
        "group/sit: no such folder, and not to be had from the hub (no network)" in said(capsys) and not (tmp_path / "b").exists()
    )


def spoilt(folder: Path, what: str) -> None:
    weights, index, card, config = (folder / name for name in ("model.safetensors", "index.json", "README.md", "config.json"))
    manifest = json.loads(index.read_text())
    match what:
        case "weights":
            weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
        case "missing":
            (folder / "vae/config.json").unlink()
        case "no card":
            card.unlink()
        case "no licence":
            card.write_text(card.read_text().replace("license: apache-2.0\n", ""))
        case "no head":
            card.write_text("# sit\n")
        case "no manifest":
            index.unlink()
        case "outside":
            manifest["files"]["../x"] = {"sha256": "0"}
            index.write_text(json.dumps(manifest))
        case "list" | "text" | "bytes":
            index.write_bytes({"list": b"[]", "text": b"{", "bytes": b"\xff\xfe"}[what])
        case "no sums":
            manifest["files"]["config.json"] = "x"
            index.write_text(json.dumps(manifest))
        case "unlisted":
            del manifest["files"]["model.safetensors"]
            index.write_text(json.dumps(manifest))
        case "no name":
            del manifest["name"]
            index.write_text(json.dumps(manifest))
        case "other channels":
            autoencoder.save(autoencoder.build(32, 3, (8, 8, 8), 1, 4), 0.5, folder / "vae")
            for name in ("config.json", autoencoder.WEIGHTS):
                manifest["files"][f"vae/{name}"]["sha256"] = files.sha256(folder / "vae" / name)
            index.write_text(json.dumps(manifest))
        case "align":
            (folder / "vae/align.json").write_text('{"x": 1}')
            manifest["files"]["vae/align.json"]["sha256"] = files.sha256(folder / "vae/align.json")
            index.write_text(json.dumps(manifest))
        case "other config":
            config.write_text(config.read_text().replace('"depth": 1', '"depth": 2'))
            manifest["files"]["config.json"]["sha256"] = files.sha256(config)
            index.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("weights", "model.safetensors: damaged (sha256"),
        ("missing", "vae/config.json: missing"),
        ("no card", "README.md: missing"),
        ("no licence", "the card does not say license"),
        ("no head", "the card does not say license, library_name, tags"),
        ("no manifest", "no index.json, so nothing to check it by"),
        ("outside", "names ../x, which is no file of this folder"),
        ("other config", "config.json: depth is 2, of the weights 1"),
        ("list", "index.json: damaged (not a JSON object); get the folder again"),
        ("text", "index.json: damaged"),
        ("bytes", "index.json: damaged"),
        ("no sums", "config.json: damaged (sha256"),
        ("unlisted", "index.json: does not list model.safetensors"),
        ("no name", "index.json: not of `reals export --to hub`"),
        ("other channels", "the network draws 4 latent channels, the autoencoder in vae/ has 3"),
        ("align", "align.json: makes no align networks"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(shared, tmp_path, capsys, what, line):
    shutil.copytree(shared / "sit", tmp_path / "there")
    spoilt(tmp_path / "there", what)
    assert main(["import", str(tmp_path / "there"), str(tmp_path / "out")]) == 2
    printed = said(capsys)
    assert line in printed and "\n" not in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]


def test_what_is_there_is_not_overwritten_and_options_belong_to_their_format(results, shared, tmp_path, capsys):
    vae = str(results / "autoencoders/reals-1")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/mine").touch()
    for arguments, line in {
        ("export", vae, str(tmp_path / "a"), "--to", "hub"): "is there already",
        ("import", str(shared / "vae"), str(tmp_path / "a")): "is there already",
        ("export", vae, str(tmp_path / "b"), "--to", "hub", "--push", "reals"): "--push reals: expected user/repository",
        ("export", vae, str(tmp_path / "b"), "--to", "hub", "--no-variance"): "--no-variance: means nothing to --to hub",
        ("export", vae, str(tmp_path / "b.pt"), "--push", "a/b"): "--push: goes with --to hub alone",
        ("import", str(shared / "vae"), str(tmp_path / "b"), "--revision", "v1"): "a revision is of a repository on the hub",
        ("export", vae, str(tmp_path / "b"), "--to", "hub", "--private"): "--private: is of the repository that --push makes",
        ("export", vae, str(tmp_path / "a/mine/b"), "--to", "hub"): "cannot be made (",
        ("import", str(shared / "sit/model.safetensors"), str(tmp_path / "b")): "is a file; give the folder that it is in",
        ("import", "nowhere", str(tmp_path / "b")): "no such folder, and no user/repository on the hub either",
    }.items():
        assert main(list(arguments)) == 2
        assert line in said(capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_others_weights_need_a_licence_said(tmp_path, capsys):
    autoencoder.save(tiny(), 0.5, tmp_path / "own/sd-vae")
    assert main(["export", str(tmp_path / "own/sd-vae"), str(tmp_path / "out"), "--to", "hub"]) == 2
    assert "give --licence" in said(capsys) and not (tmp_path / "out").exists()
    assert main(["export", str(tmp_path / "own/sd-vae"), str(tmp_path / "out"), "--to", "hub", "--licence", "mit"]) == 0
    text = (tmp_path / "out/README.md").read_text()
    assert "license: mit" in text and "no record of its making" in text and "Nothing was measured" in text


def test_networks_of_a_real_run(finished, tmp_path):
    """Their metrics are found, with their protocol, and what draws in the results draws the same from the folder."""
    root = finished / "results/smoke"
    run = next(
        path for path in sorted(root.glob("metrics/*/metrics.json")) if json.loads(path.read_text())["kind"] == "evaluation"
    )
    result = json.loads(run.read_text())
    weights = finished / result["provenance"]["checkpoint"]
    assert main(["export", str(weights), str(tmp_path / "sit"), "--to", "hub"]) == 0
    assert main(["import", str(tmp_path / "sit"), str(tmp_path / "back")]) == 0
    card = (tmp_path / "back/README.md").read_text()
    for key, value in result["protocol"].items():
        assert f"- {key}: {value}" in card
    assert "snakemake results/smoke/runs/" in card
    drawn = []
    for checkpoint in (weights, tmp_path / "back/model.safetensors"):
        out = tmp_path / f"{len(drawn)}.npz"
        assert main(["sample", str(checkpoint), "--npz", str(out), "--cfg", "1", "--steps", "4", "--classes", "#0"]) == 0
        drawn.append(np.load(out)["arr_0"])
    assert np.array_equal(*drawn)
