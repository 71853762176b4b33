"""Published files are brought into one folder, whole or not at all, and a scale runs from it without a network.

A local server stands in for the hub, PyTorch's downloads and ADM's; stand-ins of a few bytes or small networks for the files.
"""

import contextlib
import hashlib
import http.server
import json
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import edit
from safetensors.torch import load_file, save_file

from reals import files
from reals.cli.main import main
from reals.experiment.load import load
from reals.experiment.reading import ConfigError
from reals.experiment.registry import Registry
from reals.experiment.scale import Scale
from reals.method.models import autoencoder as models
from reals.planning import fetch, pretrained
from reals.planning.preflight import weights
from reals.planning.pretrained import FETCHED, Published
from reals.stages import autoencoder, inputs, teacher
from reals.stages.context import Context

VAE, VIT = "someone/tiny-vae", "test_vit.r160_in1k"
NAMES = {
    "bases.sd-vae": [f"{VAE}/config.json", f"{VAE}/diffusion_pytorch_model.safetensors"],
    "teachers.base": [f"timm/{VIT}/model.safetensors"],
}


class Server(http.server.ThreadingHTTPServer):
    """Serves ``content`` by path, as the hub does where a path has /resolve/; ``asked`` is what it was asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.asked, self.cut, self.refuses = {}, [], False, 404
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        self.server.asked.append(self.path)
        content = self.server.content.get(self.path)
        if content is None:
            self.send_error(self.server.refuses)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        if "/resolve/" in self.path:
            stated = getattr(self.server, "stated", None) or hashlib.sha256(content).hexdigest()
            self.send_header("X-Repo-Commit", "c" * 40)
            self.send_header("ETag", f'"{stated}"')
        self.end_headers()
        if body:
            self.wfile.write(content[: len(content) // 2] if self.server.cut else content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def publish(server, monkeypatch, repositories, downloads):
    """``repositories``: repository/name -> bytes, on the hub; ``downloads``: name -> bytes, elsewhere."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for place, content in repositories.items():
        repository, name = place.rsplit("/", 1)
        for revision in ("main", "c" * 40):
            server.content[f"/{repository}/resolve/{revision}/{name}"] = content
    server.content |= {f"/{name}": content for name, content in downloads.items()}


def read(path: Path) -> bytes:
    return path.read_bytes()


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """A tiny autoencoder, timm's tiny ViT, SqueezeNet's layers, and a few bytes for Inception and ADM's reference."""
    import timm
    from torchvision.models import squeezenet1_1

    folder = tmp_path_factory.mktemp("published")
    vae = models.build(16, 4, (8, 8, 8), 1, 4)
    models.initialise(vae, 0)
    models.save(vae, 0.5, folder)
    torch.manual_seed(0)
    save_file(timm.create_model(VIT).state_dict(), folder / "model.safetensors")
    torch.save(squeezenet1_1().state_dict(), folder / "squeeze.pth")
    np.savez(folder / "reference.npz", arr_0=np.zeros(3), mu=0, sigma=0, mu_s=0, sigma_s=0)
    places = [place for places in NAMES.values() for place in places]
    squeeze, inception = read(folder / "squeeze.pth"), b"Inception's weights"
    return {
        "hub": {place: read(folder / place.rsplit("/", 1)[1]) for place in places},
        "elsewhere": {
            f"squeezenet1_1-{hashlib.sha256(squeeze).hexdigest()[:8]}.pth": squeeze,
            f"inception-{hashlib.sha256(inception).hexdigest()[:8]}.pth": inception,
            "VIRTUAL_imagenet256_labeled.npz": read(folder / "reference.npz"),
        },
    }


@pytest.fixture
def scale(project, server, stand_ins, monkeypatch) -> Scale:
    """The smoke scale with published networks, all of them published by ``server``."""
    import torch_fidelity.feature_extractor_inceptionv3 as published

    path = project / "config/scales/smoke.yaml"
    text = path.read_text()
    lines = {
        "  base: {": f"  base: {{kind: timm, name: tiny, model: {VIT}, patch: 16}}",
        "  sd-vae: {": f"  sd-vae: {{kind: diffusers, path: {VAE}}}",
        "  lpips: {": "  lpips: {net: squeeze, backbone: pretrained}",
        "  extractor: {": "  extractor: {kind: inception}\n  reference: data/VIRTUAL_imagenet256_labeled.npz",
    }
    for start, line in lines.items():
        (old,) = [found for found in text.splitlines() if found.startswith(start)]
        edit(path, old, line)
    squeeze, inception, reference = stand_ins["elsewhere"]
    publish(server, monkeypatch, stand_ins["hub"], stand_ins["elsewhere"])
    monkeypatch.setattr(pretrained, "backbone_url", lambda net: f"{server.url}/{squeeze}")
    monkeypatch.setattr(published, "URL_INCEPTION_V3", f"{server.url}/{inception}")
    monkeypatch.setitem(pretrained.ADM_REFERENCES, reference, f"{server.url}/{reference}")
    return load("smoke").scale


def no_network(monkeypatch):
    def refuse(*arguments, **settings):
        raise AssertionError(f"the network was asked for {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


FETCH = ["fetch", "--config", "scale=smoke"]


def test_a_scale_runs_from_what_was_fetched_without_a_network(scale, stand_ins, monkeypatch, capsys):
    assert main(FETCH) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 6 and all(line.startswith("got ") for line in printed)
    folder = Path("data/pretrained")
    everything = stand_ins["hub"] | stand_ins["elsewhere"]
    assert {place: read(folder / place) for place in everything} == everything
    recorded = json.loads((folder / FETCHED).read_text())["files"]
    assert {place: entry["sha256"] for place, entry in recorded.items()} == {
        place: hashlib.sha256(content).hexdigest() for place, content in everything.items()
    }
    assert sorted(p.name for p in folder.iterdir()) == sorted([".lock", FETCHED, "someone", "timm", *stand_ins["elsewhere"]])

    no_network(monkeypatch)
    monkeypatch.setenv("TORCH_HOME", "empty")
    registry = Registry(load("smoke"))
    context = Context(registry)
    base, vit = registry.autoencoders["sd-vae"], registry.teachers["base"]
    autoencoder.run(context, base)
    made = files.read_json(registry.folder(base) / "index.json")["files"]["diffusion_pytorch_model.safetensors"]
    assert made["bytes"] and files.read_json(registry.folder(base) / "config.json")["scaling_factor"] == 0.5
    teacher.run(context, vit)
    published, own = (load_file(place / "model.safetensors") for place in (folder / f"timm/{VIT}", registry.folder(vit)))
    assert all(torch.equal(published[name], value) for name, value in own.items())
    squeeze, inception, reference = stand_ins["elsewhere"]
    layer = inputs.load_lpips(context).network.net.slice1[0].weight
    assert torch.equal(layer, torch.load(folder / squeeze, weights_only=True)["features.0.weight"])
    assert inputs.extractor_weights(context, "extractor", scale.evaluation.extractor) == folder / inception
    assert pretrained.reference(scale) == folder / reference
    checked = {key: look() for key, look in weights.published(registry)}
    assert sorted(checked) == ["autoencoder.lpips", "bases.sd-vae", "evaluation.extractor", "teachers.base"]
    assert all(line.endswith("as it was fetched") for line in checked.values())
    weights.there(registry, {vit.id, base.id, registry.reference.id})
    (folder / FETCHED).unlink()
    (folder / f"timm/{VIT}/model.safetensors").write_text("<html>try again later</html>")  # by hand, from a mirror
    with pytest.raises(ConfigError, match="is damaged"):
        dict(weights.published(registry))["teachers.base"]()


@pytest.mark.slow
def test_a_second_call_asks_for_nothing_and_mends_what_is_damaged(scale, server, stand_ins, capsys):
    assert main(FETCH) == 0
    server.asked.clear()
    assert main(FETCH) == 0 and main([*FETCH, "--verify"]) == 0
    assert server.asked == []
    squeeze, inception, _ = (Path("data/pretrained") / name for name in stand_ins["elsewhere"])
    squeeze.write_bytes(read(squeeze)[:-1])
    inception.write_bytes(b"inception's weights")
    capsys.readouterr()
    with pytest.raises(ValueError, match=r"evaluation.extractor: .* sha256 is .* run `reals fetch` again"):
        pretrained.local(scale, "evaluation.extractor")
    assert main(FETCH) == 0  # looks at sizes alone
    assert server.asked == [f"/{squeeze.name}"]
    assert "; fetched again" in capsys.readouterr().out
    assert main([*FETCH, "--verify"]) == 0
    assert server.asked == [f"/{squeeze.name}", f"/{inception.name}"]
    assert read(inception) == b"Inception's weights"


def test_each_missing_file_has_a_line_where_there_is_no_network(scale, server, monkeypatch, capsys):
    def refuse(*arguments, **settings):
        server.asked.append(arguments)
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert main(FETCH) == 1
    out, err = capsys.readouterr()
    assert out.count("FIX") == 1 and "cannot be reached" in out
    assert err.count("\n") == 1 + 6 and "6 of 6 files are missing" in err.splitlines()[0]
    assert f"  {VAE} on the Hugging Face hub as data/pretrained/{VAE}/config.json" in err.splitlines()
    assert len({str(asked) for asked in server.asked}) == 1  # the others are not tried in vain


def published_file(server, name="net.pth", digits="", **settings) -> Published:
    return Published("x", name, url=f"{server.url}/{name}", digits=digits, **settings)


def said(file, folder, mirror=None):
    return fetch.fetch([file], folder, mirror, False, lambda line: None)


def nothing_in(folder) -> bool:
    return [path.name for path in folder.rglob("*") if path.is_file()] == [".lock"]


def test_a_wrong_checksum_leaves_no_file(tmp_path, server):
    server.content["/net.pth"] = b"content"
    assert "sha256 is " in said(published_file(server, digits="0000"), tmp_path)["net.pth"]
    assert nothing_in(tmp_path)


def test_a_checksum_that_the_hub_states_is_compared(tmp_path, server, monkeypatch):
    publish(server, monkeypatch, {"a/b/model.safetensors": b"content"}, {})
    server.stated = "0" * 64
    file = Published("x", "a/b/model.safetensors", repository="a/b")
    assert f"expected {'0' * 64}" in said(file, tmp_path)["a/b/model.safetensors"]
    assert not (tmp_path / file.place).exists()
    server.stated = None
    assert said(file, tmp_path) == {} and read(tmp_path / file.place) == b"content"
    assert pretrained.record(tmp_path)[file.place]["source"].endswith(f"/a/b/resolve/{'c' * 40}/model.safetensors")


def test_a_download_that_breaks_off_leaves_no_file(tmp_path, server):
    server.content["/net.pth"] = b"content" * 1000
    server.cut = True
    assert "breaks off (3,500 of 7,000 bytes came), 3 times" in said(published_file(server), tmp_path)["net.pth"]
    assert nothing_in(tmp_path)
    server.cut = False
    (tmp_path / ".net.pth.elsewhere.1.partial").write_bytes(b"of a call that was killed")
    assert said(published_file(server), tmp_path) == {}
    assert not list(tmp_path.glob("*.partial")) and read(tmp_path / "net.pth") == b"content" * 1000


def test_what_a_server_does_not_have_is_said_and_the_rest_is_fetched(tmp_path, server, monkeypatch):
    publish(server, monkeypatch, {"a/b/here": b"1"}, {"there": b"2"})
    wanted = [
        published_file(server, "gone.pth"),
        Published("x", "a/b/gone", repository="a/b"),
        Published("x", "a/b/here", repository="a/b"),
        published_file(server, "there"),
    ]
    failed = fetch.fetch(wanted, tmp_path, None, False, lambda line: None)
    assert sorted(failed) == ["a/b/gone", "gone.pth"] and all("404" in reason for reason in failed.values())


@pytest.mark.parametrize("kind", ["folder", "url"])
def test_a_mirror_is_held_to_its_own_record(tmp_path, server, kind):
    first, mirror = tmp_path / "first", tmp_path / "mirror"
    server.content["/net.pth"] = b"content"
    assert said(published_file(server), mirror) == {}
    server.content |= {f"/m/{path.name}": read(path) for path in mirror.iterdir()}
    where = str(mirror) if kind == "folder" else f"{server.url}/m/"
    assert said(published_file(server), first, where) == {} and read(first / "net.pth") == b"content"
    (mirror / "net.pth").write_bytes(b"another")
    server.content["/m/net.pth"] = b"another"
    assert "sha256 is " in said(published_file(server), tmp_path / "second", where)["net.pth"]
    (mirror / FETCHED).unlink()
    del server.content[f"/m/{FETCHED}"]
    assert said(published_file(server), tmp_path / "second", where) == {}


def test_a_mirror_that_does_not_answer_for_its_record_is_not_taken_for_one_without(tmp_path, server):
    server.content["/m/net.pth"] = b"content"
    server.refuses = 503
    reason = said(published_file(server), tmp_path / "here", f"{server.url}/m")["net.pth"]
    assert "fetched.json: the server answers 503" in reason and not (tmp_path / "here/net.pth").exists()


@pytest.mark.parametrize("content", [b"{half", b"[]", b"{}", b'{"files": []}', b'{"files": {"net.pth": {}}}', b"\xff\xfe\0"])
def test_a_record_that_is_none_is_one_line(tmp_path, server, content):
    """Such as a mirror's page for what it does not have, or a file that a full disk cut short."""
    server.content |= {"/net.pth": b"content", "/m/net.pth": b"content", f"/m/{FETCHED}": content}
    reason = said(published_file(server), tmp_path / "here", f"{server.url}/m")["net.pth"]
    assert reason == f"{server.url}/m/{FETCHED}: no record of fetched files; delete it and run `reals fetch` again"
    (tmp_path / "here" / FETCHED).write_bytes(content)
    with pytest.raises(ValueError, match="no record of fetched files"):
        said(published_file(server), tmp_path / "here")


def test_a_file_that_was_copied_by_hand_counts_if_it_is_the_published_one(tmp_path, server):
    digits = hashlib.sha256(b"content").hexdigest()[:8]
    (tmp_path / "net.pth").write_bytes(b"content")
    assert said(published_file(server, digits=digits), tmp_path) == {} and server.asked == []
    assert pretrained.record(tmp_path)["net.pth"]["source"] == "copied by hand"
    server.content["/other.pth"] = b"content"
    (tmp_path / "other.pth").write_bytes(b"half")
    assert said(published_file(server, "other.pth", digits), tmp_path) == {} and read(tmp_path / "other.pth") == b"content"


def test_the_paper_scale_names_its_published_files():
    scale = load("imagenet256").scale
    wanted = {key: [file.place for file in files()] for key, files in pretrained.needed(scale).items()}
    vae = ("config.json", "diffusion_pytorch_model.safetensors")
    assert wanted == {
        "bases.sd-vae": [f"stabilityai/sd-vae-ft-ema/{name}" for name in vae],
        "bases.sd-vae-mse": [f"stabilityai/sd-vae-ft-mse/{name}" for name in vae],
        "teachers.large": ["timm/vit_large_patch14_reg4_dinov2.lvd142m/model.safetensors"],
        "teachers.base": ["timm/vit_base_patch14_reg4_dinov2.lvd142m/model.safetensors"],
        "autoencoder.lpips": ["vgg16-397923af.pth"],
        "evaluation.extractor": ["weights-inception-2015-12-05-6726825d.pth"],
        "evaluation.reference": ["VIRTUAL_imagenet256_labeled.npz"],
    }
    (vgg,) = pretrained.needed(scale)["autoencoder.lpips"]()
    assert vgg.digits == "397923af"


def test_where_the_files_lie_is_no_part_of_any_id(project, scale):
    def ids():
        registry = Registry(load("smoke"))
        return [artefact.id for artefact in (*registry.autoencoders.values(), *registry.teachers.values(), registry.reference)]

    before = ids()
    with contextlib.suppress(FileNotFoundError):
        (project / "data/pretrained").rmdir()
    edit(project / "config/scales/smoke.yaml", "name: smoke", "name: smoke\npretrained: elsewhere")
    assert load("smoke").scale.pretrained == "elsewhere" and ids() == before


def test_a_scale_without_published_files_needs_none(project, capsys):
    assert main(FETCH) == 0
    assert "nothing to fetch" in capsys.readouterr().out
