"""Results that travel with the repository: shown in a clone, never taken for made, told without what is private, gone on from."""

import json
import math
import re
import shlex
import shutil
import socket
from pathlib import Path

import pytest
from conftest import copy_project, planned, snakemake

from reals import files
from reals.cli.main import main
from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.records import provenance, published
from reals.report import results

SMOKE = published.ROOT / "smoke"
SHOWN = ("results/smoke/metrics.json", "results/smoke/evaluations.csv")
RENDERED = {"tables", "figure", "report", "all"}


@pytest.fixture
def clone(publication, tmp_path, monkeypatch) -> Path:
    """What git would bring of it, as the current folder."""
    shutil.copytree(publication, tmp_path, dirs_exist_ok=True, symlinks=True, ignore=shutil.ignore_patterns("smoke"))
    shutil.copytree(publication / SMOKE, tmp_path / SMOKE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def expensive(folder: Path) -> dict[str, int]:
    return {rule: n for rule, n in planned(folder).items() if rule not in RENDERED}


@pytest.mark.workflow
def test_what_is_published_is_small_whole_and_tells_nothing_private(publication, finished):
    held = contents(publication / SMOKE)
    assert sum(map(len, held.values())) < 5e6
    texts = {name: data.decode() for name, data in held.items() if name.endswith((".json", ".jsonl"))}
    for name, text in texts.items():
        assert '"host"' not in text and not re.search(r"/(tmp|root|home|work)/", text), name
        assert len(socket.gethostname()) < 5 or socket.gethostname() not in text, name
    assert not {Path(name).suffix for name in held} & {".safetensors", ".pt", ".npy", ".pdf"}
    made = (finished / "results/smoke").glob("metrics/*/metrics.json")
    assert all(held[str(path.relative_to(finished / "results/smoke"))] == path.read_bytes() for path in made)


@pytest.mark.workflow
def test_publishing_again_changes_nothing_and_takes_away_what_is_no_longer_of_the_graph(
    publication, finished, tmp_path, monkeypatch
):
    copy_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(publication / SMOKE, SMOKE)
    registry = Registry(load("smoke"))
    shutil.copytree(finished / "results/smoke/metrics", registry.root / "metrics")
    before = contents(SMOKE)
    for stray in ("metrics/old-0123456789/metrics.json", "runs/old-0123456789/log.jsonl", "tables/table99.md", "figures/old.png"):
        (SMOKE / stray).parent.mkdir(parents=True, exist_ok=True)
        (SMOKE / stray).write_text("{}")
    published.write(registry, registry)
    after = contents(SMOKE)
    # The records of what is behind the numbers are not in this folder: they stay as they were published.
    assert after == before and not (SMOKE / "runs/old-0123456789").exists()


@pytest.mark.workflow
def test_a_clone_renders_and_explains_what_is_published_and_makes_it_all_itself(clone, publication, capsys):
    everything = expensive(clone)
    done = snakemake(clone, "render")
    assert " results measured; published results, made 20" in done.stdout
    page = (clone / "results/smoke/report.html").read_text()
    assert 'id="published">Published results, made 20' in page and "your own runs take their place" in page
    for name in SHOWN:
        assert (clone / name).read_bytes() == (publication / SMOKE / Path(name).name).read_bytes()
    for table in (publication / SMOKE / "tables").iterdir():
        assert (clone / "results/smoke/tables" / table.name).read_bytes() == table.read_bytes()
    assert expensive(clone) == everything and everything["evaluate"] > 30
    assert main(["why", "table03:sit-b2-reals_400K:fid"]) == 0
    said = capsys.readouterr().out
    assert "(published results, made 20" in said and f"{SMOKE}/metrics/sit-b2-reals_400K-" in said
    assert "step_2.safetensors  sha256 " in said and " by its record" in said and "again: snakemake results/smoke/" in said
    assert main(["claim"]) == 0
    assert "(published results" in capsys.readouterr().out


@pytest.mark.workflow
def test_own_results_take_the_place_of_published_ones(clone, finished):
    registry = Registry(load("smoke"))
    own = registry.outputs(registry.evaluations["sit-b2-reals_400K"])[0]
    own.parent.mkdir(parents=True)
    shutil.copy(finished / own, own)
    shown = published.shown(registry)
    assert shown is registry and published.note(shown) is None
    measured = [name for (_, name), result in results.load(shown).items() if result is not None]
    assert measured == ["sit-b2-reals_400K"]


@pytest.mark.workflow
def test_a_clone_goes_on_from_what_is_restored(clone, publication, capsys):
    assert main(["publish", "--restore"]) == 0
    assert "49 published results restored, 0 were here" in capsys.readouterr().out
    assert expensive(clone) == {}
    registry = Registry(load("smoke"))
    shutil.rmtree(registry.folder(registry.evaluations["sit-b2-sd-vae_400K"]))
    assert expensive(clone) == {
        "data": 1, "autoencoder": 1, "latents": 1, "transformer": 1, "sample": 2, "extractor": 1, "reference": 1, "evaluate": 1,
    }  # fmt: skip
    assert main(["publish", "--restore"]) == 0
    assert "1 published results restored, 48 were here" in capsys.readouterr().out
    shutil.rmtree(SMOKE / "tables")
    published.write(registry, registry)
    before = contents(publication / SMOKE)
    assert contents(SMOKE) == {name: data for name, data in before.items() if not name.startswith("tables/")}


def measure(registry: Registry, name: str, fid: float) -> None:
    """A metrics file and its record, as a job would leave them."""
    artefact = registry.evaluations[name]
    path = registry.folder(artefact) / "metrics.json"
    made = {"kind": "evaluation", "name": name, "id": artefact.id, "values": {"fid": fid}, "protocol": {}, "provenance": {}}
    files.write_json(path, made)
    attempt = {"began": "2026-11-29T10:00:00+00:00", "host": "secret-node", "device": "a CPU", "code": "0.2.0 (abc)"}
    record = {
        "command": provenance.remake(registry, path), "sha256": files.sha256(path), "attempts": [attempt], "python": "3.11",
        "packages": {"torch": "2"},
    }  # fmt: skip
    files.write_json(provenance.path_of(path), record)


@pytest.mark.slow
def test_results_of_a_folder_are_shown_where_that_folder_is_not(project, tmp_path, monkeypatch, capsys):
    images = tmp_path / "elsewhere/private/my-photos"
    mine = ["--config", "scale=cifar10", f"data={images}"]
    registry = Registry(load("cifar10", data=str(images)))
    for arm in ("reals", "sd-vae", "control"):
        measure(registry, f"sit-b4-{arm}_late", 10.0)
    monkeypatch.setattr("reals.report.commands.draw", lambda registry, folder: None)
    assert main(["publish", "--results", *mine]) == 0
    assert "results/published/cifar10_my-photos: 3 results" in capsys.readouterr().out
    texts = [data.decode() for data in contents(published.ROOT / "cifar10_my-photos").values()]
    assert not any("private" in text or "secret-node" in text for text in texts)
    assert any("data=my-photos" in text for text in texts)
    shutil.rmtree(registry.root)
    theirs = ["--config", "scale=cifar10", "data=my-photos"]
    assert main(["claim", *theirs]) == 0
    assert "published results, made 2026-11-29 by 0.2.0 (abc); your own runs take their place" in capsys.readouterr().out
    assert main(["why", "arms:reals-late:fid", *theirs]) == 0
    assert "fid = 10" in capsys.readouterr().out


def broken(file: str, text: str) -> list[str]:
    path = next(published.ROOT.glob(f"cifar10/{file}"))
    path.write_text(path.read_text()[:30] if text == "half" else text) if text else path.unlink()
    return [str(path)]


@pytest.mark.parametrize(
    ("file", "text", "command", "says"),
    [
        ("metrics/sit-b4-reals_late-*/metrics.json", "half", ["claim"], "brings back what results/published held"),
        ("metrics/sit-b4-reals_late-*/metrics.json", "{}", ["publish", "--restore"], "says other bytes; `git checkout -- "),
        (
            "metrics/sit-b4-reals_late-*/metrics.json",
            "[]",
            ["why", "arms:reals-late:fid"],
            "damaged (not a JSON object); `git checkout",
        ),
        ("published.json", "", ["claim"], "published.json: missing or damaged; `git checkout -- results/published/cifar10`"),
        ("published.json", "[]", ["claim"], "published.json: missing or damaged; `git checkout"),
        ("published.json", "half", ["why", "arms:reals-late:fid"], "published.json: missing or damaged; `git checkout"),
    ],
)
def test_broken_published_files_get_one_line(file, text, command, says, project, monkeypatch, capsys):
    registry = Registry(load("cifar10"))
    for arm in ("reals", "sd-vae"):
        measure(registry, f"sit-b4-{arm}_late", 10.0)
    published.write(registry, registry)
    shutil.rmtree(registry.root)
    broken(file, text)
    assert main([*command, "--config", "scale=cifar10"]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert says in line


def test_one_missing_published_number_is_not_measured_yet(project, capsys):
    registry = Registry(load("cifar10"))
    for name in ("sit-b4-reals_late", "sit-b4-sd-vae_late", "sit-b4-control_late"):
        measure(registry, name, 10.0)
    published.write(registry, registry)
    shutil.rmtree(registry.root)
    broken("metrics/sit-b4-control_late-*/metrics.json", "")
    assert main(["why", "arms:control-late:fid", "--config", "scale=cifar10"]) == 0
    assert "fid is not measured yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--results"], "nothing of scale cifar10 is measured in results/cifar10; run snakemake first"),
        (["--restore"], "results/published/cifar10 holds no result of what the sheets define now"),
        (["all", "--results"], "expected names of artefacts, or --results, or --restore"),
        ([], "expected names of artefacts, or --results, or --restore"),
    ],
)
def test_what_cannot_be_published_or_restored_gets_one_line(arguments, says, project, capsys):
    assert main(["publish", *arguments, "--config", "scale=cifar10"]) == 2
    assert says in capsys.readouterr().err


def test_a_scale_is_not_told_by_an_absolute_path(project, capsys):
    own = project / "mine.yaml"
    own.write_text((project / "config/scales/cifar10.yaml").read_text().replace("name: cifar10\n", "name: mine\n", 1))
    registry = Registry(load(str(own)))
    measure(registry, "sit-b4-reals_late", 10.0)
    assert main(["publish", "--results", "--config", f"scale={own}"]) == 2
    assert "give the file by a path below this folder" in capsys.readouterr().err


def test_a_number_that_names_this_machine_is_refused(project, capsys):
    registry = Registry(load("cifar10"))
    measure(registry, "sit-b4-reals_late", 10.0)
    path = registry.outputs(registry.evaluations["sit-b4-reals_late"])[0]
    files.write_json(path, files.read_json(path) | {"provenance": {"checkpoint": "/home/me/run/step_2.pt"}})
    assert main(["publish", "--results", "--config", "scale=cifar10"]) == 2
    assert "names a host or an absolute path" in capsys.readouterr().err


def test_private_parts_of_records_are_left_out():
    told = published.clean({
        "host": "node7", "command": "snakemake x --config data=/home/me/photos scale=a",
        "attempts": [{"host": "node7", "model": "SiT-B/2", "url": "https://a.org/b/c"}], "path": "/data/x/y.pt and results/a/b",
    })  # fmt: skip
    assert told == {
        "command": "snakemake x --config data=photos scale=a",
        "attempts": [{"model": "SiT-B/2", "url": "https://a.org/b/c"}], "path": "y.pt and results/a/b",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/home/jane doe/my data/vae.pt", "vae.pt"),
        ("file:///home/jane doe/x y", "x y"),
        ("node7:/home/jane/x", "node7:x"),
        ("results/a b/c and m/s", "results/a b/c and m/s"),
    ],
)
def test_a_path_with_spaces_is_private_too(text, told):
    assert published.clean([text]) == [told]


def test_a_command_s_quoted_paths_are_private_too():
    words = ["snakemake", "results/a/b", "--config", "data=/home/jane o'neil doe/my photos", "/tmp x/y"]
    assert published.clean({"command": shlex.join(words)}) == {"command": "snakemake results/a/b --config 'data=my photos' y"}


def test_a_home_with_a_space_is_private_in_the_middle_of_a_text(monkeypatch):
    monkeypatch.setenv("HOME", "/home/jane doe")
    assert published.clean("read from /home/jane doe/data/a.pt, twice") == "read from a.pt, twice"


@pytest.mark.parametrize("count", [1, 99, 100, 101, 1999])
def test_a_log_is_thinned_evenly_and_keeps_its_end(count, tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(count)))
    steps = [json.loads(line)["step"] for line in published._thinned(path).splitlines()]
    assert len(steps) <= published.LOG_LINES and steps[-1] == count - 1
    assert len({b - a for a, b in zip(steps, steps[1:], strict=False)}) <= 1
    assert len(steps) >= min(count, published.LOG_LINES // 2)


def test_a_logs_numbers_keep_six_digits(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1234567, "loss": 0.31625479459762573, "lr": 1.23456789e-07, "late": NaN, "whole": 8.0}\n')
    kept = json.loads(published._thinned(path))
    assert (kept["step"], kept["loss"], kept["lr"], kept["whole"]) == (1234567, 0.316255, 1.23457e-07, 8.0)
    assert math.isnan(kept["late"])
