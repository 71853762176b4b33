"""Artefacts through DVC: a clone trains nothing that it pulled; what is damaged or changed is remade, and nothing else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, edit, planned, snakemake

from reals import config as configs
from reals import publish
from reals.registry import Registry

RENDERED = {"tables", "figure", "report", "all"}


def run(folder: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess:
    identity = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, env=os.environ | identity)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def dvc(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    return run(folder, sys.executable, "-m", "dvc", *arguments, check=check)


def reals(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    return run(folder, sys.executable, "-m", "reals", *arguments, check=check)


def registry(folder: Path) -> Registry:
    return Registry(configs.load("smoke", folder=folder / "config"))


@pytest.fixture(scope="module")
def origin(finished, tmp_path_factory) -> Path:
    """A repository whose smoke run is partly published to a remote folder."""
    folder = tmp_path_factory.mktemp("origin") / "project"
    shutil.copytree(finished, folder, symlinks=True, ignore=shutil.ignore_patterns(".snakemake"))
    for name in (".dvcignore", "dvc.yaml"):
        shutil.copy(REPOSITORY / name, folder)
    stages = yaml.safe_load((folder / "dvc.yaml").read_text())
    stages["metrics"], stages["plots"] = [path.replace("imagenet256", "smoke") for path in stages["metrics"][:1]], []
    (folder / "dvc.yaml").write_text(yaml.safe_dump(stages, sort_keys=False))
    (folder / "printed.txt").unlink()
    shutil.copy(REPOSITORY / ".gitignore", folder)
    edit(folder / ".gitignore", "results/smoke*/\n", "")
    run(folder, "git", "init", "-q", "-b", "main")
    dvc(folder, "init", "-q")
    dvc(folder, "remote", "add", "-d", "store", str(folder.parent / "store"))
    dvc(folder, "remote", "modify", "store", "verify", "true")
    reals(folder, "registry", "smoke")
    done = reals(folder, "publish", "sit-b2-reals", "sit-b2-control", "autoencoder@reals", "--scale", "smoke")
    assert "5 recorded and pushed" in done.stdout
    run(folder, "git", "add", "-A", ".")
    run(folder, "git", "commit", "-qm", "published")
    return folder


@pytest.fixture
def clone(origin, tmp_path) -> Path:
    folder = tmp_path / "clone"
    run(tmp_path, "git", "clone", "-q", str(origin), str(folder))
    return folder


def expensive(jobs: dict[str, int]) -> dict[str, int]:
    return {rule: n for rule, n in jobs.items() if rule not in RENDERED}


def forget(folder: Path, evaluation: str) -> None:
    shutil.rmtree(folder / registry(folder).folder(registry(folder).evaluations[evaluation]))


@pytest.mark.workflow
def test_a_clone_renders_with_nothing_pulled(clone):
    assert expensive(planned(clone)) == {}
    snakemake(clone, "results/smoke/tables/table03.md")


@pytest.mark.workflow
@pytest.mark.parametrize("link", ["copy", "hardlink", "symlink"])
def test_what_was_pulled_is_not_trained_again(clone, link):
    dvc(clone, "config", "--local", "cache.type", link)
    dvc(clone, "pull", "-q", "run@smoke_sit-b2-reals", "autoencoder@smoke_reals")
    forget(clone, "sit-b2-reals_400K")
    assert expensive(planned(clone)) == {"data": 1, "extractor": 1, "reference": 1, "sample": 2, "evaluate": 1}
    if link == "symlink":
        snakemake(clone)
        assert run(clone, "git", "status", "--short", "results/smoke/metrics.json", "results/smoke/tables").stdout == ""


@pytest.mark.workflow
def test_a_changed_weight_remakes_what_depends_on_it_in_a_clone_too(clone):
    dvc(clone, "pull", "-q", "run@smoke_sit-b2-reals", "autoencoder@smoke_reals")
    edit(
        clone / "config/autoencoders.tsv",
        "reals-mlp4\tsd-vae\tlarge\tyes\tyes\t4\t2e-5",
        "reals-mlp4\tsd-vae\tlarge\tyes\tyes\t4\t3e-5",
    )
    jobs = expensive(planned(clone))
    assert jobs.pop("autoencoder") == 2  # reals-mlp4 and the base it starts from, which was not pulled
    assert jobs == {
        "data": 1, "extractor": 1, "teacher": 1, "features": 1, "latents": 1, "transformer": 1, "sample": 2, "reference": 1, "evaluate": 1,
    }  # fmt: skip
    reals(clone, "registry")
    status = dvc(clone, "status", "run@smoke_sit-b2-reals-mlp4", "autoencoder@smoke_reals-mlp4").stdout
    assert "config/registry.json" in status
    assert "smoke_reals-mlp4" in status


@pytest.mark.workflow
def test_a_damaged_object_is_named_and_only_that_is_made_again(origin, clone):
    import hashlib

    run_of = registry(clone)
    weights = run_of.folder(run_of.runs["sit-b2-control"]) / "step_2.safetensors"
    digest = hashlib.md5((origin / weights).read_bytes()).hexdigest()
    stored = origin.parent / "store/files/md5" / digest[:2] / digest[2:]
    whole = stored.read_bytes()
    stored.chmod(0o644)
    try:
        stored.write_bytes(whole[:-1] + b"!")
        pulled = dvc(clone, "pull", "run@smoke_sit-b2-control", "run@smoke_sit-b2-reals", check=False)
        assert pulled.returncode != 0
        assert str(weights.parent) in pulled.stderr
        assert (clone / run_of.folder(run_of.runs["sit-b2-reals"]) / "step_2.safetensors").exists()
    finally:
        stored.write_bytes(whole)
    forget(clone, "sit-b2-control_400K")
    assert planned(clone)["transformer"] == 1


@pytest.mark.workflow
def test_verify_finds_a_file_that_differs_from_what_was_recorded(clone):
    dvc(clone, "pull", "-q", "run@smoke_sit-b2-control", "autoencoder@smoke_reals")
    made = registry(clone)
    weights = made.folder(made.runs["sit-b2-control"]) / "step_2.safetensors"
    decoder = made.folder(made.autoencoders["reals"]) / "diffusion_pytorch_model.safetensors"
    assert "2 artefacts are whole, 0 damaged" in reals(clone, "verify", "--scale", "smoke").stdout
    for path in (weights, decoder):
        (clone / path).chmod(0o644)
        content = bytearray((clone / path).read_bytes())
        content[-1] ^= 1
        (clone / path).write_bytes(content)
    done = reals(clone, "verify", "--scale", "smoke", check=False)
    assert done.returncode == 2
    assert str(weights) in done.stdout
    assert str(decoder) in done.stdout
    reals(clone, "verify", "--scale", "smoke", "--remove")
    assert not (clone / weights).exists()
    assert not (clone / decoder.parent / "index.json").exists()


@pytest.mark.workflow
def test_a_pulled_run_goes_on_from_its_state_and_not_from_the_start(origin, clone):
    dvc(clone, "pull", "-q", "run@smoke_sit-b2-control")
    edit(clone / "config/runs.tsv", "sit-b2-control\tSiT-B/2\tcontrol\tno\t400K", "sit-b2-control\tSiT-B/2\tcontrol\tno\t400K,1M")
    made = registry(clone)
    target = made.folder(made.runs["sit-b2-control"]) / "step_4.safetensors"
    refused = snakemake(clone, str(target), check=False)
    assert refused.returncode != 0
    log = (clone / f"results/smoke/logs/transformer/{target.parent.name}_4.log").read_text()
    assert "its training state is not in results/smoke/states" in log
    dvc(clone, "pull", "-q", "state@smoke_sit-b2-control")
    assert planned(clone, str(target)) == {"transformer": 1}
    snakemake(clone, str(target))
    assert [json.loads(line)["step"] for line in (clone / target.parent / "log.jsonl").read_text().splitlines()] == [2, 4]


@pytest.mark.workflow
def test_metrics_are_compared_between_commits(clone):
    metrics = clone / "results/smoke/metrics.json"
    content = json.loads(metrics.read_text())
    content["evaluation"]["sit-b2-reals_400K"]["fid"] -= 1.5
    metrics.write_text(json.dumps(content))
    changed = json.loads(dvc(clone, "metrics", "diff", "--json").stdout)
    (values,) = changed.values()
    assert values["evaluation.sit-b2-reals_400K.fid"]["diff"] == pytest.approx(-1.5)


@pytest.mark.workflow
def test_an_unreachable_remote_gets_one_line(origin, clone):
    dvc(clone, "pull", "-q", "run@smoke_sit-b2-control")
    dvc(clone, "remote", "modify", "--local", "store", "url", "/proc/no/such/folder")
    done = reals(clone, "publish", "run@sit-b2-control", "--scale", "smoke", check=False)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "dvc push" in done.stderr


@pytest.mark.workflow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no-such-row"], "'no-such-row' names nothing that scale smoke publishes"),
        (["samples@sit-b2-reals_400K"], "nothing of this is finished"),
        (["sit-b2-reals", "--scale", "demo"], "add this scale: `reals registry smoke demo`"),
    ],
)
def test_publish_refuses_in_one_line(clone, arguments, says):
    done = reals(clone, "publish", *arguments, *([] if "--scale" in arguments else ["--scale", "smoke"]), check=False)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_committed_registry_is_what_the_sheets_say():
    scales = publish.known_scales(REPOSITORY / "config")
    assert publish.document(scales, REPOSITORY / "config") == (REPOSITORY / "config" / publish.REGISTRY).read_text(), (
        "run `reals registry`"
    )


def test_every_output_persists():
    """Without it `dvc repro` deletes all finished checkpoints before it starts."""
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    assert set(stages) == set(publish.STAGES)
    for stage in stages.values():
        assert all(options["persist"] for out in stage["do"]["outs"] for options in out.values())
