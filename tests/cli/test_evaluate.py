"""`reals evaluate` and `reals reference`: files in, numbers out; caches, shards and references that do not fit are refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from PIL import Image

from reals.cli import main as cli
from reals.measure.extractor import Extractor, Features, extract
from reals.measure.extractors.inception import inception
from reals.measure.extractors.small_cnn import (
    SmallCNN,
    SmallCNNConfig,
    initialise_small_cnn,
    load_small_cnn,
    save_small_cnn,
    small_cnn_extractor,
)
from reals.measure.metrics.generation import generation_metrics, reference_of
from reals.measure.record import summary
from reals.measure.references import any_reference, reference_rows
from reals.measure.sources.by_path import open_source
from reals.measure.stored import load_arrays, save_arrays
from reals.rng import generator

NAME = "tiny-cnn"


def pictures(n: int, seed: int = 0, size: int = 16) -> np.ndarray:
    """uint8 [n, size, size, 3]: smooth enough for the network to tell them apart."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (n, 4, 4, 3)).repeat(size // 4, 1).repeat(size // 4, 2)
    return np.clip(coarse + draw.integers(-20, 20, coarse.shape) + 10 * seed, 0, 255).astype(np.uint8)


def make_network(folder: Path, size: int = 16, seed: int = 0) -> Path:
    model = SmallCNN(SmallCNNConfig(classes=5, resolution=size, width=4))
    initialise_small_cnn(model, generator(seed, "judge"))
    with torch.no_grad():
        model.head.weight *= 100
    save_small_cnn(model.eval(), folder)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with samples, real images and a network, as the current one."""
    monkeypatch.chdir(tmp_path)
    make_network(tmp_path / NAME)
    np.savez(tmp_path / "samples.npz", pictures(90, 1), np.arange(90) % 3)
    np.savez(tmp_path / "real.npz", pictures(80))
    return tmp_path


def reals(*arguments: object) -> int:
    return cli.main([str(a) for a in arguments])


def evaluate(*more: object, samples="samples.npz", reference="real.npz", n=90, pr=80) -> dict:
    code = reals("evaluate", samples, "--reference", reference, "--network", NAME, "--n", n, "--pr-reference", pr,
                 "--batch", 16, "--out", "m.json", *more)  # fmt: skip
    assert code == 0
    return json.loads(Path("m.json").read_text())


def refused(capsys, *arguments: object) -> str:
    """The one line of a refusal."""
    assert reals(*arguments) == 2
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith(f"reals {arguments[0]}:")]
    assert len(lines) == 1
    return lines[0]


def test_the_command_gives_the_metrics_of_the_functions(here, capsys):
    record = evaluate("--kid")
    extractor = small_cnn_extractor(load_small_cnn(here / NAME), NAME)
    samples, real = (
        extract(extractor, torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).split(16)) for x in (pictures(90, 1), pictures(80))
    )
    expected = generation_metrics(samples, reference_of(real), pr_reference=80, kid_subset_size=40)  # half, as the stage
    names = {"FID": "fid", "sFID": "sfid", "IS": "is", "Precision": "precision", "Recall": "recall", "KID": "kid"}
    for printed, key in names.items():
        assert record["metrics"][f"{printed} ({NAME})"] == pytest.approx(expected[key], rel=1e-6), printed
    assert record["n"] == 90 and not record["fewer_than_asked"] and record["notes"] == []
    assert 0.02 < expected["precision"] < 1 and expected["is"] > 1.05
    line = capsys.readouterr().out.splitlines()[-1]
    assert f"FID ({NAME})" in line and "n=90" in line and line.endswith("m.json")
    assert record["samples"]["sha256"] == open_source(here / "samples.npz").sha256
    assert record["reference"]["source_sha256"] == open_source(here / "real.npz").sha256
    assert record["network"] == {"name": NAME, "sha256": extractor.sha256}
    assert {"torch", "numpy", "reals"} <= set(record["versions"])
    assert 0 < record["extraction"]["share_outside_network"] < 1


def test_every_layout_of_samples_and_reference_gives_the_same_numbers(here):
    first = evaluate()["metrics"]
    np.save(here / "samples.npy", pictures(90, 1))
    (here / "drawn").mkdir()
    for k, part in enumerate(np.split(pictures(90, 1), [50])):
        np.save(here / f"drawn/shard_{k:03d}.npy", part.transpose(0, 3, 1, 2))
    assert evaluate(samples="samples.npy")["metrics"] == first
    assert evaluate(samples="drawn")["metrics"] == first
    assert reals("reference", "real.npz", "--out", "ref.npz", "--network", NAME, "--pr-reference", 80, "--batch", 16) == 0
    assert evaluate(reference="ref.npz")["metrics"] == first


def test_features_are_kept_and_belong_to_their_samples(here, capsys):
    first = evaluate("--features", "f.npz")
    again = evaluate("--features", "f.npz")
    assert again["metrics"] == first["metrics"] and "extraction" not in again
    np.savez(here / "other.npz", pictures(90, 2))
    message = refused(capsys, "evaluate", "other.npz", "--reference", "real.npz", "--network", NAME, "--n", 90,
                      "--pr-reference", 80, "--features", "f.npz")  # fmt: skip
    assert "samples_sha256" in message and "other samples" in message


@pytest.mark.slow
@pytest.mark.parametrize("shards", [2, 3, 7])
def test_features_made_in_shards_merge_to_the_same_bits(here, capsys, shards):
    whole = evaluate("--features", "whole.npz")
    shared = ("--network", NAME, "--n", 90, "--batch", 16, "--features", "parts.npz")
    for k in range(shards):
        if k == shards - 1:
            message = refused(capsys, "evaluate", "samples.npz", "--reference", "real.npz", "--pr-reference", 80, *shared)
            assert f"parts.{k:03d}-of-{shards:03d}.npz: missing" in message
        assert reals("evaluate", "samples.npz", *shared, "--shard", f"{k}/{shards}") == 0
    merged = evaluate("--features", "parts.npz")
    assert merged["metrics"] == whole["metrics"]
    parts = [np.load(here / f"parts.{k:03d}-of-{shards:03d}.npz") for k in range(shards)]
    for field in ("pool", "spatial", "logits"):
        joined = np.concatenate([p[field] for p in parts])
        assert np.array_equal(joined, np.load(here / "whole.npz")[field])


@pytest.mark.process
def test_shards_made_by_processes_of_their_own_merge_to_the_same_bits(here):
    whole = evaluate()
    command = [sys.executable, "-m", "reals", "evaluate", "samples.npz", "--network", NAME, "--n", "90", "--batch", "16",
               "--features", "parts.npz", "--shard"]  # fmt: skip
    environment = {"OMP_NUM_THREADS": "1", "PATH": "", "PYTHONPATH": str(REPOSITORY / "src")}
    running = [subprocess.Popen([*command, f"{k}/2"], env=environment, stderr=subprocess.DEVNULL) for k in range(2)]
    assert [p.wait() for p in running] == [0, 0]
    assert evaluate("--features", "parts.npz")["metrics"] == whole["metrics"]


def test_a_reference_made_in_shards_agrees_to_rounding(here, capsys):
    shared = ("reference", "real.npz", "--network", NAME, "--pr-reference", 40, "--batch", 16)
    assert reals(*shared, "--out", "whole.npz") == 0
    for k in range(3):
        assert reals(*shared, "--out", "parts.npz", "--shard", f"{k}/3") == 0
    assert reals(*shared, "--out", "parts.npz") == 0
    a, b = np.load("whole.npz"), np.load("parts.npz")
    assert np.array_equal(a["features"], b["features"]) and len(a["features"]) == 40 and a["n"] == b["n"] == 80
    for name in ("mu", "sigma", "mu_s", "sigma_s"):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-12, atol=1e-12 * np.abs(a[name]).max())
    assert json.loads(str(a["facts"]))["images"] == 80


def test_fewer_samples_are_refused_or_flagged(here, capsys):
    base = ("evaluate", "samples.npz", "--reference", "real.npz", "--network", NAME)
    assert "90 images, 50000 asked for samples" in refused(capsys, *base)
    assert "80 reference images, 10000 asked" in refused(capsys, *base, "--n", 90)
    record = evaluate("--allow-fewer", n=50000, pr=10000)
    assert record["fewer_than_asked"] and record["n"] == 90 and record["asked"] == 50000
    assert "fewer samples than asked: 90 of 50000" in record["notes"]
    assert "fewer samples than asked: 90 of 50000" in capsys.readouterr().out
    assert "the first 60 of 90 images" in evaluate(n=60)["notes"]


@pytest.mark.slow
def test_a_reference_that_does_not_fit_is_refused(here, capsys):
    assert reals("reference", "real.npz", "--out", "ref.npz", "--network", NAME, "--pr-reference", 80) == 0
    base = ("evaluate", "samples.npz", "--n", 90, "--pr-reference", 80)
    make_network(here / "second")
    make_network(here / "again" / NAME, seed=1)
    for more, message in (
        (("--reference", "ref.npz", "--network", "second"), f"made with the extractor {NAME}, the samples' is second"),
        (("--reference", "ref.npz", "--network", f"again/{NAME}"), f"made with other weights of {NAME}"),
        (("--reference", "wide.npz", "--network", NAME), r"wide.npz: images are 32x32, the samples 16x16"),
        (("--reference", "wide-ref.npz", "--network", NAME), r"wide-ref.npz: images are 32x32, the samples 16x16"),
        (("--reference", "f.npz", "--network", NAME), "not a reference file"),
        (("--reference", "cut.npz", "--network", NAME), "truncated"),
        (("--reference", "empty", "--network", NAME), "no image in this folder"),
        (("--reference", "nowhere", "--network", NAME), "no such file or folder"),
        (("--network", NAME), "nothing to compare with"),
    ):
        np.savez(here / "wide.npz", pictures(80, size=32))
        (here / "empty").mkdir(exist_ok=True)
        (here / "cut.npz").write_bytes((here / "ref.npz").read_bytes()[:-300])
        facts, arrays = load_arrays(here / "ref.npz")
        save_arrays(here / "wide-ref.npz", facts | {"size": [32, 32]}, arrays)
        save_arrays(here / "f.npz", {"made": "by hand"}, {"x": np.zeros(3)})
        assert message in refused(capsys, *base, *more)


@pytest.mark.slow
def test_bad_samples_and_options_are_refused(here, capsys):
    real = ("--reference", "real.npz", "--network", NAME, "--n", 90, "--pr-reference", 80)
    np.savez(here / "float.npz", pictures(90) / np.float32(255))
    (here / "cut.npz").write_bytes((here / "samples.npz").read_bytes()[:-300])
    (here / "empty").mkdir()
    torch.save({"x": torch.zeros(3)}, here / "other.pth")
    torch.save({"x": Path("y")}, here / "object.pth")
    np.savez(here / "negative.npz", pictures(90, 1), np.arange(90) % 3 - 1)
    (here / "labels.npy").write_text("0 1 2")
    for arguments, message in (
        (("float.npz", *real), "float32, expected uint8"),
        (("cut.npz", *real), "truncated"),
        (("empty", *real), "no image"),
        (("samples.npz", *real, "--shard", "3/3", "--features", "f.npz"), "expected K/N"),
        (("samples.npz", *real, "--shard", "0/3"), "needs --features"),
        (("samples.npz", *real, "--bootstrap", "1"), "--bootstrap 1"),
        (("samples.npz", *real, "--batch", "0"), "--batch 0"),
        (("samples.npz", *real, "--sha256", "0"), "no --weights file"),
        (("samples.npz", *real, "--network", "resnet"), "expected inception, dinov2, clip"),
        (("samples.npz", *real, "--network", "no.such:thing"), "No module named"),
        (("samples.npz", *real, "--network", "inception", "--weights", "w.pth"), "no such file"),
        (("real.npz", *real, "--n", 80, "--per-class"), "has no labels"),
        (("samples.npz", *real[:4], "--n", "1"), "at least 2"),
        (("samples.npz", *real, "--kid", "--pr-reference", "0"), "--kid"),
        (("samples.npz", *real, "--pr-reference", "3"), "3rd neighbour"),
        (("samples.npz", *real, "--n", "3"), "too few for precision and recall"),
        (("samples.npz", *real, "--device", "tpu9"), "--device tpu9"),
        (("samples.npz", *real, "--out", "samples.npz/m.json"), "cannot be written"),
        (("samples.npz", *real, "--out", "m.png"), "m.png: --out is a .json file"),
        (("samples.npz", *real, "--out", "/dev/fd/1"), "/dev/fd/1: is a device or a pipe"),
        (("samples.npz", *real, "--out", "."), ".: is a folder"),
        (("samples.npz", *real, "--features", "samples.npz/f.npz"), "cannot be written"),
        (("samples.npz", *real, "--network", "inception", "--weights", "other.pth"), "not torch-fidelity's Inception"),
        (("samples.npz", *real, "--network", "inception", "--weights", "object.pth"), "could run code"),
        (("negative.npz", *real, "--per-class"), "labels below 0"),
        (("samples.npz", *real, "--per-class", "--labels", "labels.npy"), "not a whole .npy of numbers"),
        (("samples.npz", *real, "--per-class", "--labels", "samples.npz"), "not a whole .npy of numbers"),
        (("samples.npz", *real, "--labels", "labels.npy"), "--labels: says the classes of --per-class; give both"),
        (("samples.npz", *real, "--out", "samples.npz"), "samples.npz: is read by this command, which would write over it"),
        (("samples.npz", *real, "--out", "./real.npz"), "real.npz: is read by this command"),
        (("samples.npz", *real, "--out", "empty"), "is a folder; give a file with --out"),
    ):
        assert message in refused(capsys, "evaluate", *arguments), arguments
    assert not list(here.glob("*.json"))


def test_fewer_reference_rows_are_drawn_and_not_the_first(here):
    real = np.sort(pictures(80).reshape(80, -1), axis=0).reshape(80, 16, 16, 3)  # as a file sorted by class
    np.savez(here / "sorted.npz", real)
    assert reals("reference", "sorted.npz", "--out", "ref.npz", "--network", NAME, "--pr-reference", 80) == 0
    extractor = small_cnn_extractor(load_small_cnn(here / NAME), NAME)
    reference, _ = any_reference(here / "ref.npz", extractor, (16, 16), 20, 5, 16, "bytes", False)
    stored = load_arrays(here / "ref.npz")[1]["features"]
    kept = torch.from_numpy(stored[reference_rows(80, 20, 5)])
    assert torch.equal(reference.features, kept) and not torch.equal(kept, torch.from_numpy(stored[:20]))


def test_features_belong_to_what_floats_were_taken_to_mean(here, capsys):
    np.savez(here / "unit.npz", pictures(90, 1) / np.float32(255))
    base = (
        "evaluate",
        "unit.npz",
        "--reference",
        "real.npz",
        "--network",
        NAME,
        "--n",
        90,
        "--pr-reference",
        80,
        "--features",
        "f.npz",
    )
    assert reals(*base, "--range", "signed") == 0
    assert "range is signed, unit expected" in refused(capsys, *base, "--range", "unit")


def test_samples_in_the_current_folder_have_a_name(here, monkeypatch):
    np.save(here / "shard_000.npy", pictures(90, 1).transpose(0, 3, 1, 2))
    options = ("--reference", "real.npz", "--network", NAME, "--n", 90, "--pr-reference", 80)
    assert reals("evaluate", ".", *options) == 0
    assert here.with_name(here.name + ".metrics.json").exists()


def test_damaged_parts_and_references_are_one_line(here, capsys):
    shared = ("--network", NAME, "--n", 90, "--features", "f.npz")
    assert reals("evaluate", "samples.npz", *shared, "--shard", "0/1") == 0
    part = here / "f.000-of-001.npz"
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    options = ("--reference", "real.npz", "--pr-reference", 80)
    assert "truncated" in refused(capsys, "evaluate", "samples.npz", *shared, *options)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    part.write_bytes(flipped)
    assert "damaged" in refused(capsys, "evaluate", "samples.npz", *shared, *options)


def test_floats_are_compared_with_a_reference_of_bytes(here):
    x = np.load(here / "samples.npz")["arr_0"]
    np.savez(here / "floats.npz", (x / 255).astype(np.float32))
    assert evaluate("--range", "unit", samples="floats.npz")["metrics"] == evaluate()["metrics"]


def with_a_hole() -> Extractor:
    """A network with a pool feature that is NaN for the image whose first byte is 7."""

    def features(images: torch.Tensor) -> Features:
        pool = images.float().mean(dim=(2, 3))
        pool[images[:, 0, 0, 0] == 7] = torch.nan
        return Features(pool, pool[:, :0], pool[:, :0])

    return Extractor("holes", torch.nn.Linear(1, 1), features)


def test_a_network_of_ones_own_and_the_image_whose_features_are_not_finite(here, capsys, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    name = f"{Path(__file__).stem}:with_a_hole"
    x = pictures(90, 1)
    x[:, 0, 0, 0] = 8
    np.savez(here / "whole.npz", x)
    x[41, 0, 0, 0] = 7
    np.savez(here / "hole.npz", x)
    rest = ("--reference", "whole.npz", "--network", name, "--n", 90, "--pr-reference", 80, "--out", "m.json")
    assert reals("evaluate", "whole.npz", *rest) == 0
    assert set(json.loads(Path("m.json").read_text())["metrics"]) == {"FID (holes)", "Precision (holes)", "Recall (holes)"}
    assert "features of hole.npz: row 41 is not finite" in refused(capsys, "evaluate", "hole.npz", *rest)


# Intervals and contributions


def test_class_shares_sum_to_the_fid_and_name_the_guilty_class(here):
    record = evaluate("--per-class")
    shares = record["per_class"]
    total = sum(c["share"] for c in shares["classes"].values()) + shares["remainder"]
    assert total == pytest.approx(record["metrics"][f"FID ({NAME})"], rel=1e-9)
    assert [c["samples"] for c in shares["classes"].values()] == [30, 30, 30]


def test_the_bootstrap_is_in_the_record(here):
    record = evaluate("--bootstrap", 10)
    for name in ("FID", "sFID", "IS", "Precision", "Recall"):
        interval = record["intervals"][f"{name} ({NAME})"]
        assert interval["low"] <= record["metrics"][f"{name} ({NAME})"] <= interval["high"]
    assert evaluate("--bootstrap", 10)["intervals"] == record["intervals"]


# ADM's reference files and network


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Random weights in the layout of torch-fidelity's file."""
    from small import random_inception_weights

    return random_inception_weights(tmp_path_factory.mktemp("inception") / "inception.pth")


@pytest.mark.slow
def test_adms_network_reads_adms_reference_and_alone_has_plain_names(here, capsys, weights):
    draw = np.random.default_rng(0)
    statistics = {"mu": draw.normal(size=2048), "sigma": np.eye(2048), "mu_s": draw.normal(size=2023), "sigma_s": np.eye(2023)}
    np.savez(here / "adm.npz", arr_0=pictures(6), **statistics)
    np.savez(here / "statistics.npz", **statistics)
    np.savez(here / "few.npz", pictures(6, 1))
    base = ("--weights", weights, "--n", 6, "--out", "m.json", "--features", "f.npz")
    assert reals("evaluate", "few.npz", "--reference", "adm.npz", *base, "--pr-reference", 6) == 0
    record = json.loads(Path("m.json").read_text())
    assert set(record["metrics"]) == {"FID", "sFID", "IS", "IS std over splits", "Precision", "Recall"}
    assert record["reference"]["statistics"] == "stored in the file" and record["reference"]["images"] is None
    assert "not comparable with published FID-50K: 6 samples, 50000 in ADM's protocol" in record["notes"]
    # Against the identity the distance is |mu - mu_r|^2 + sum (sqrt(eigenvalue) - 1)^2, with 5 eigenvalues above 0.
    for name, field, mu in (("FID", "pool", statistics["mu"]), ("sFID", "spatial", statistics["mu_s"])):
        x = np.load("f.npz")[field].astype(np.float64)
        roots = np.linalg.svd(x - x.mean(0), compute_uv=False)[:5] / 5**0.5
        expected = ((x.mean(0) - mu) ** 2).sum() + ((roots - 1) ** 2).sum() + len(mu) - 5
        assert record["metrics"][name] == pytest.approx(expected, rel=1e-9)
    assert "has no images (arr_0)" in refused(capsys, "evaluate", "few.npz", "--reference", "statistics.npz", *base)
    np.savez(here / "others.npz", **statistics | {"mu": np.zeros(64), "sigma": np.eye(64)})
    assert "those of inception-v3-compat are (2048,)" in refused(
        capsys, "evaluate", "few.npz", "--reference", "others.npz", *base, "--pr-reference", 0
    )
    found, facts = any_reference(here / "statistics.npz", inception(weights), (16, 16), 0, 0, 16, "bytes", False)
    assert len(found.features) == 0 and facts["size"] is None and torch.equal(found.pool.mu, torch.from_numpy(statistics["mu"]))


@pytest.mark.slow
def test_statistics_of_adms_network_do_not_serve_another(here):
    np.savez(
        here / "adm.npz", arr_0=pictures(80), mu=np.zeros(2048), sigma=np.eye(2048), mu_s=np.zeros(2023), sigma_s=np.eye(2023)
    )
    record = evaluate(reference="adm.npz")
    assert record["reference"]["statistics"] == "computed" and record["metrics"] == evaluate()["metrics"]


def test_a_reference_of_too_few_images_is_named_before_anything_is_measured(here, capsys):
    np.savez("three.npz", pictures(3))
    np.savez("one.npz", pictures(1))
    assert cli.main(["reference", "one.npz", "--out", "r.npz", "--network", NAME, "--allow-fewer"]) == 2
    assert "one.npz: 1 reference image, at least 2 are needed" in capsys.readouterr().err
    for command in (["evaluate", "samples.npz", "--reference", "three.npz"], ["reference", "three.npz", "--out", "r.npz"]):
        assert cli.main([*command, "--network", NAME, "--allow-fewer"]) == 2
        assert "three.npz: 3 reference images, but precision and recall look at the 3 nearest" in capsys.readouterr().err


def test_a_cached_reference_with_too_few_features_is_named_before_anything_is_measured(here, capsys):
    assert reals("reference", "real.npz", "--out", "r.npz", "--network", NAME, "--allow-fewer") == 0
    facts, arrays = load_arrays(here / "r.npz")
    save_arrays(here / "few.npz", facts, arrays | {"features": arrays["features"][:3]})
    said = refused(capsys, "evaluate", "samples.npz", "--reference", "few.npz", "--network", NAME, "--allow-fewer")
    assert "few.npz: 3 reference images, but precision and recall look at the 3 nearest" in said


def test_what_a_reference_left_out_is_noted(here, capsys):
    for i, image in enumerate(pictures(8)):
        Image.fromarray(image).save(here / f"real_{i}.png")
        (here / "real").mkdir(exist_ok=True)
        (here / f"real_{i}.png").rename(here / f"real/{i}.png")
    (here / "real/8.heic").write_bytes(b"x")
    note = "left out: 1 file of no image format (.heic)"
    assert reals("reference", "real", "--out", "r.npz", "--network", NAME, "--allow-fewer") == 0
    assert capsys.readouterr().out.endswith(f"16x16; {note}\n")
    for reference in ("real", "r.npz"):
        assert f"reference: {note}" in evaluate("--allow-fewer", reference=reference)["notes"]


@pytest.mark.parametrize("labels", [np.arange(90)[:, None] % 3, np.eye(3)[np.arange(90) % 3], np.arange(90) % 3 * 10**15])
def test_labels_may_be_a_column_one_hot_or_any_whole_numbers(here, labels):
    np.save("labels.npy", labels)
    shares = [found["share"] for found in evaluate("--per-class", "--labels", "labels.npy")["per_class"]["classes"].values()]
    assert shares == [found["share"] for found in evaluate("--per-class")["per_class"]["classes"].values()] and len(shares) == 3


def test_the_distance_of_a_set_to_itself_is_not_printed_as_negative():
    record = {"metrics": {"sFID": -1e-9, "FID": 0.25}, "n": 4, "notes": []}
    assert summary(record) == "sFID 0.0000  FID 0.2500  (n=4)"
