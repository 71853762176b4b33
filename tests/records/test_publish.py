"""Artefacts through DVC: a clone trains nothing that it pulled; what is damaged or changed is remade, and nothing else."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, edit, once, planned, snakemake

from reals.cli.main import main
from reals.experiment.load import load
from reals.experiment.reading import ConfigError
from reals.experiment.registry import Registry
from reals.planning.preflight import remote
from reals.records import publish, store

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
    return Registry(load("smoke", folder=folder / "config"))


@pytest.fixture(scope="session")
def origin(finished, publication, tmp_path_factory) -> Path:
    """A repository whose smoke run is published: its numbers in git, some artefacts in a remote folder; no test changes either."""
    return once(tmp_path_factory, "origin", lambda folder: publish_some(finished, publication, folder / "project")) / "project"


def publish_some(finished: Path, publication: Path, folder: Path) -> None:
    shutil.copytree(finished, folder, symlinks=True, ignore=shutil.ignore_patterns(".snakemake"))
    for name in (".dvcignore", "dvc.yaml"):
        shutil.copy(REPOSITORY / name, folder)
    stages = yaml.safe_load((folder / "dvc.yaml").read_text())
    for kind in ("metrics", "plots"):
        stages[kind] = json.loads(json.dumps(stages[kind][:1]).replace("imagenet256", "smoke"))
    (folder / "dvc.yaml").write_text(yaml.safe_dump(stages, sort_keys=False))
    (folder / "printed.txt").unlink()
    shutil.copy(REPOSITORY / ".gitignore", folder)
    run(folder, "git", "init", "-q", "-b", "main")
    dvc(folder, "init", "-q")
    shutil.copytree(REPOSITORY / ".dvc/plots", folder / ".dvc/plots")
    shutil.copy(REPOSITORY / ".dvc/config", folder / ".dvc/config")
    reals(folder, "registry", "smoke")
    embedded = ("run@dit-b2-reals", "autoencoder@reals", "--embed", "--config", "scale=smoke")
    assert "2 recorded and pushed" in reals(folder, "publish", *embedded).stdout
    dvc(folder, "remote", "add", "-d", "store", str(folder.parent / "store"))
    dvc(folder, "remote", "modify", "store", "verify", "true")
    done = reals(
        folder, "publish", "sit-b2-reals", "sit-b2-control", "autoencoder@reals", "autoencoder@control", "--config", "scale=smoke"
    )
    assert "6 recorded and pushed" in done.stdout
    shutil.copytree(publication / "results/published/smoke", folder / "results/published/smoke")
    run(folder, "git", "add", "-A", ".")
    run(folder, "git", "commit", "-qm", "published")


@pytest.fixture
def clone(origin, tmp_path) -> Path:
    """A clone in which the published numbers count as made, so that what is planned is what was pulled in vain."""
    folder = tmp_path / "clone"
    run(tmp_path, "git", "clone", "-q", str(origin), str(folder))
    reals(folder, "publish", "--restore", "--config", "scale=smoke")
    return folder


def expensive(jobs: dict[str, int]) -> dict[str, int]:
    return {rule: n for rule, n in jobs.items() if rule not in RENDERED}


def same(folder: Path, other: Path) -> bool:
    """Whether two folders hold the same numbers and tables."""
    names = ["metrics.json", *(f"tables/{path.name}" for path in (other / "tables").iterdir())]
    return all((folder / name).read_bytes() == (other / name).read_bytes() for name in names)


def forget(folder: Path, evaluation: str) -> None:
    shutil.rmtree(folder / registry(folder).folder(registry(folder).evaluations[evaluation]))


@pytest.mark.workflow
def test_a_clone_draws_with_what_the_repository_itself_brings(clone, monkeypatch, capsys):
    dvc(clone, "config", "core.remote", store.NAME)  # as it is before anybody adds a remote
    dvc(clone, "pull", "-q", "run@smoke_dit-b2-reals", "autoencoder@smoke_reals")
    monkeypatch.chdir(clone)
    weights = registry(clone).outputs(registry(clone).runs["dit-b2-reals"])[0]
    assert main(["sample", str(weights), "--n", "1", "--cfg", "1.5", "--steps", "2", "--grid", "digits.png"]) == 0
    assert (clone / "digits.png").exists()
    assert planned(clone, str(weights)) == {}
    for record in weights.parent.glob("made/*.json"):
        assert "host" not in record.read_text()
    assert "the one in the repository" in remote.dvc_remote(clone)
    line = refused(clone, "publish", "run@dit-b2-reals", "--config", "scale=smoke")
    assert "recorded in dvc.lock but not pushed (no remote of your own: `dvc remote add -d store URL` first" in line


def test_the_repositorys_store_drops_what_is_no_longer_named_and_stays_small(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listing = json.dumps([{"md5": "b" * 32, "relpath": "weights"}])
    for name, text in (("a" * 32 + ".dir", listing), ("b" * 32, "x" * 100), ("c" * 32, "x" * 100)):
        path = store.FOLDER / "files/md5" / name[:2] / name[2:]
        path.parent.mkdir(parents=True)
        path.write_text(text)
    outs = [{"path": "results/demo/runs/a", "md5": "a" * 32 + ".dir"}]
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"run@demo_a": {"outs": outs}}}))
    assert store.tidy() == 100 + len(listing)
    assert sorted(path.parent.name for path in (store.FOLDER / "files/md5").glob("*/*")) == ["aa", "bb"]
    monkeypatch.setattr(store, "LARGEST", 100)
    with pytest.raises(ValueError, match=r"and at most 0.0001 MB travel with the repository; do not commit it"):
        store.tidy()


def test_the_repositorys_store_holds_what_dvc_lock_names_of_the_demo():
    """And it is of the demo that the sheets define: `dvc pull` would bring networks that nothing uses."""
    lock = REPOSITORY / "dvc.lock"
    stages = yaml.safe_load(lock.read_text())["stages"] if lock.exists() else {}
    demo = {name: stage for name, stage in stages.items() if "@demo_" in name}
    known = json.loads((REPOSITORY / "config/registry.json").read_text())
    objects = REPOSITORY / store.FOLDER / "files/md5"
    for name, stage in demo.items():
        kind, _, key = name.partition("@")
        [out] = stage["outs"]
        assert out["path"] == known[kind][key]["folder"], f"{name}: the sheets changed; embed it anew (docs/artifacts.md)"
        listing = objects / out["md5"][:2] / out["md5"][2:]
        for entry in json.loads(listing.read_text()):
            stored = objects / entry["md5"][:2] / entry["md5"][2:]
            assert hashlib.md5(stored.read_bytes()).hexdigest() == entry["md5"]


@pytest.mark.workflow
@pytest.mark.parametrize("link", ["copy", "hardlink", "symlink"])
def test_what_was_pulled_is_not_trained_again(clone, link):
    dvc(clone, "config", "--local", "cache.type", link)
    dvc(clone, "pull", "-q", "run@smoke_sit-b2-reals", "autoencoder@smoke_reals")
    forget(clone, "sit-b2-reals_400K")
    assert expensive(planned(clone)) == {"data": 1, "extractor": 1, "reference": 1, "sample": 2, "evaluate": 1}
    if link == "symlink":
        snakemake(clone)
        assert same(clone / "results/smoke", clone / "results/published/smoke")


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
def test_a_damaged_object_is_named_and_only_that_is_made_again(origin, clone, tmp_path):
    run_of = registry(clone)
    weights = run_of.folder(run_of.runs["sit-b2-control"]) / "step_2.safetensors"
    digest = hashlib.md5((origin / weights).read_bytes()).hexdigest()
    store = tmp_path / "store"
    shutil.copytree(origin.parent / "store", store)
    dvc(clone, "remote", "modify", "--local", "store", "url", str(store))
    stored = store / "files/md5" / digest[:2] / digest[2:]
    stored.chmod(0o644)
    stored.write_bytes(stored.read_bytes()[:-1] + b"!")
    pulled = dvc(clone, "pull", "run@smoke_sit-b2-control", "run@smoke_sit-b2-reals", check=False)
    assert pulled.returncode != 0
    assert str(weights.parent) in pulled.stderr
    assert (clone / run_of.folder(run_of.runs["sit-b2-reals"]) / "step_2.safetensors").exists()
    forget(clone, "sit-b2-control_400K")
    assert planned(clone)["transformer"] == 1


@pytest.mark.workflow
def test_verify_finds_a_file_that_differs_from_what_was_recorded(clone):
    dvc(clone, "pull", "-q", "run@smoke_sit-b2-control", "autoencoder@smoke_reals")
    made = registry(clone)
    weights = made.folder(made.runs["sit-b2-control"]) / "step_2.safetensors"
    decoder = made.folder(made.autoencoders["reals"]) / "diffusion_pytorch_model.safetensors"
    assert "2 artefacts are whole, 0 damaged" in reals(clone, "verify", "--config", "scale=smoke").stdout
    for path in (weights, decoder):
        (clone / path).chmod(0o644)
        content = bytearray((clone / path).read_bytes())
        content[-1] ^= 1
        (clone / path).write_bytes(content)
    done = reals(clone, "verify", "--config", "scale=smoke", check=False)
    assert done.returncode == 2
    assert str(weights) in done.stdout
    assert str(decoder) in done.stdout
    reals(clone, "verify", "--config", "scale=smoke", "--remove")
    assert not (clone / weights).exists()
    assert not (clone / decoder.parent / "index.json").exists()


def published(folder: Path, *names: str) -> dict[str, str]:
    """Writes files of some content; their md5 as DVC would list them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps({"text": f"{name} as it was"}))
    every = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.md5(path.read_bytes()).hexdigest() for path in every}


def test_training_that_goes_on_damages_nothing(tmp_path, monkeypatch):
    record = "made/step_2.safetensors.json"
    beside = ("samples/step_2.png", "profile/steps_1-2.json.gz", "wandb/run/log")
    listed = published(tmp_path, "log.jsonl", *beside, "tensorboard/events.1", "step_2.safetensors", record)
    monkeypatch.setattr(publish, "recorded", lambda folder: listed)
    (tmp_path / record).write_text("{}")
    (tmp_path / "log.jsonl").write_text("more lines")
    for name in beside:
        (tmp_path / name).write_text("made again")
    (tmp_path / "tensorboard/events.1").unlink()
    (tmp_path / "step_4.safetensors").write_text("the next milestone")
    assert publish.damaged(tmp_path) == []


def test_states_are_compared_with_their_own_checksums(tmp_path, monkeypatch):
    def state(step: int, content: str) -> Path:
        path = tmp_path / f"step_{step:08d}.pt"
        path.write_text(content)
        path.with_suffix(".sha256").write_text(hashlib.sha256(content.encode()).hexdigest())
        return path

    old, same = state(2, "two"), state(4, "four")
    listed = published(tmp_path)
    monkeypatch.setattr(publish, "recorded", lambda folder: listed)
    for path in (old, old.with_suffix(".sha256")):  # a rolling one that later training removed
        path.unlink()
    state(4, "four, made again")
    state(6, "six")
    assert publish.damaged(tmp_path) == []
    same.write_text("four, made agaim")
    assert publish.damaged(tmp_path) == [same]


def test_a_shard_is_what_was_recorded_unless_it_was_made_again(tmp_path, monkeypatch):
    shard, record = tmp_path / "shard_000.npy", tmp_path / "made/shard_000.npy.json"
    record.parent.mkdir()
    attempt = {"began": "2026-01-01T00:00:00+00:00", "device": "CPU", "code": "0.2.0"}
    record.write_text(json.dumps({"attempts": [attempt]}))
    listed = published(tmp_path, shard.name, "spec.json")
    monkeypatch.setattr(publish, "recorded", lambda folder: listed)
    assert publish.damaged(tmp_path) == []
    shard.write_text("other bits")
    assert publish.damaged(tmp_path) == [shard]
    record.write_text(json.dumps({"attempts": [attempt, attempt]}))
    assert publish.damaged(tmp_path) == []
    shard.unlink()  # as where one file of a folder was pulled
    assert publish.damaged(tmp_path) == []


@pytest.mark.workflow
def test_verify_finds_dvc_s_list_wherever_its_cache_is(clone, tmp_path):
    dvc(clone, "config", "--local", "cache.dir", str(tmp_path / "shared"))
    dvc(clone, "pull", "-q", "autoencoder@smoke_reals")
    spec = clone / registry(clone).folder(registry(clone).autoencoders["reals"]) / "spec.json"
    spec.chmod(0o644)
    spec.write_text(spec.read_text() + " ")
    assert str(spec.relative_to(clone)) in reals(clone, "verify", "--config", "scale=smoke", check=False).stdout


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
    history = clone / target.parent / "log.jsonl"
    assert [json.loads(line)["step"] for line in history.read_text().splitlines()] == [2, 4]
    # It differs from what was published, and nothing of it is damaged.
    assert " artefacts are whole, 0 damaged" in reals(clone, "verify", "--config", "scale=smoke", "--remove").stdout
    assert len(history.read_text().splitlines()) == 2
    reals(clone, "registry")
    done = reals(clone, "publish", "run@sit-b2-control", "state@sit-b2-control", "--config", "scale=smoke", "--no-push")
    assert "2 recorded: run@smoke_sit-b2-control, state@smoke_sit-b2-control" in done.stdout


@pytest.mark.workflow
def test_metrics_are_compared_between_commits(clone):
    metrics = clone / "results/published/smoke/metrics.json"
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
    done = reals(clone, "publish", "run@sit-b2-control", "--config", "scale=smoke", check=False)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "dvc push" in done.stderr


@pytest.fixture
def unpublished(origin, clone) -> str:
    """Something finished in the clone that the remote does not have, by its name for `reals publish`."""
    extractor = registry(clone).extractor
    shutil.copytree(origin / registry(clone).folder(extractor), clone / registry(clone).folder(extractor))
    return f"extractor@{extractor.name}"


def refused(folder: Path, *arguments: str) -> str:
    """What `reals` says where it ends with a mistake to mend: one line."""
    done = reals(folder, *arguments, check=False)
    assert done.returncode == 2
    [line] = done.stderr.strip().splitlines()
    return line


@pytest.mark.workflow
def test_a_remote_that_can_only_be_read_gives_and_takes_nothing_and_says_so(origin, clone, unpublished, tmp_path):
    store, view = tmp_path / "store", tmp_path / "view"
    shutil.copytree(origin.parent / "store", store)
    view.mkdir()
    if os.getuid() or subprocess.run(["mount", "--bind", str(store), str(view)], capture_output=True).returncode:
        pytest.skip("mounting a folder read-only needs root")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(view)], check=True)
        dvc(clone, "remote", "modify", "--local", "store", "url", str(view))
        dvc(clone, "pull", "-q", "run@smoke_sit-b2-control")
        with pytest.raises(ConfigError, match=r"can be read but not written .*`dvc pull` works, `reals publish` does not"):
            remote.dvc_remote(clone)
        line = refused(clone, "publish", unpublished, "--config", "scale=smoke")
        assert "recorded in dvc.lock but not pushed (`dvc push`: " in line and "Read-only file system" in line
        subprocess.run(["mount", "-o", "remount,rw,bind", str(view)], check=True)
        assert "1 recorded and pushed" in reals(clone, "publish", unpublished, "--config", "scale=smoke").stdout
    finally:
        subprocess.run(["umount", "-l", str(view)], check=True)


@pytest.mark.workflow
def test_a_remote_behind_http_is_pulled_from(origin, clone, unpublished):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=origin.parent / "store"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    dvc(clone, "remote", "modify", "--local", "store", "url", f"http://127.0.0.1:{server.server_port}")
    try:
        dvc(clone, "pull", "-q", "run@smoke_sit-b2-control")
        assert planned(clone, str(registry(clone).outputs(registry(clone).runs["sit-b2-control"])[-1])) == {}
        assert "answers; HTTP gives and does not take" in remote.dvc_remote(clone)
        assert "objects failed" in (line := refused(clone, "publish", unpublished, "--config", "scale=smoke")) or "501" in line
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(ConfigError, match=r"http://127.0.0.1:\d+/files/md5 does not answer \(.*refused"):
        remote.dvc_remote(clone)


@pytest.mark.workflow
def test_a_pulled_file_that_is_not_the_one_that_was_made_is_named_and_pulled_again(clone):
    dvc(clone, "pull", "-q", "run@smoke_sit-b2-control", "autoencoder@smoke_control")
    made = registry(clone)
    evaluation = made.folder(made.evaluations["sit-b2-control_400K"]) / "metrics.json"
    wanted = json.loads((clone / evaluation).read_text())["values"]
    forget(clone, "sit-b2-control_400K")
    for path in (
        made.folder(made.runs["sit-b2-control"]) / "step_2.safetensors",
        made.folder(made.autoencoders["control"]) / "diffusion_pytorch_model.safetensors",
    ):
        whole = (clone / path).read_bytes()
        (clone / path).unlink()  # it may be a link into DVC's cache
        (clone / path).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        done = snakemake(clone, str(evaluation), check=False)
        lines = [line for line in done.stderr.splitlines() if line.startswith("reals: ")]
        assert done.returncode != 0 and "Traceback" not in done.stdout + done.stderr
        assert lines and all(f"{path}: damaged (sha256 " in line for line in lines)
        reals(clone, "verify", "--config", "scale=smoke", "--remove")
        dvc(clone, "pull", "-q", "run@smoke_sit-b2-control", "autoencoder@smoke_control")
        assert (clone / path).read_bytes() == whole
    snakemake(clone, str(evaluation))
    assert json.loads((clone / evaluation).read_text())["values"] == wanted


@pytest.mark.workflow
def test_plots_of_two_commits_are_drawn_by_our_template(clone):
    sheet = clone / "results/published/smoke/evaluations.csv"
    rows = [line.split(",") for line in sheet.read_text().splitlines()]
    rows[1][rows[0].index("fid")] = "1.5"
    sheet.write_text("\n".join(",".join(row) for row in rows) + "\n")
    content = json.loads(dvc(clone, "plots", "diff", "HEAD", "--json").stdout)
    [plot] = content["data"]["results/published/smoke/evaluations.csv"]
    drawn = plot["content"]
    assert plot["revisions"] == ["workspace", "HEAD"]
    assert drawn["encoding"]["x"]["field"] == "fid" and drawn["encoding"]["y"]["field"] == "evaluation"
    bars = {(row["rev"], row["evaluation"]): float(row["fid"]) for row in drawn["data"]["values"]}
    assert len(bars) == 2 * (len(rows) - 1) and bars["workspace", rows[1][0]] == 1.5


@pytest.mark.workflow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no-such-row"], "'no-such-row' names nothing that scale smoke publishes"),
        (["samples@sit-b2-reals_400K"], "nothing of this is finished"),
        (["sit-b2-reals", "--config", "scale=demo"], "add this scale: `reals registry smoke demo`"),
    ],
)
def test_publish_refuses_in_one_line(clone, arguments, says):
    done = reals(clone, "publish", *arguments, *([] if "--config" in arguments else ["--config", "scale=smoke"]), check=False)
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
    assert set(stages) == set(publish.DVC_STAGES)
    for stage in stages.values():
        assert all(options["persist"] for out in stage["do"]["outs"] for options in out.values())


def test_damaged_records_are_named_like_all_else_that_is_damaged(tmp_path):
    (tmp_path / "made").mkdir()
    for name in ("index.json", "spec.json", "made/index.json.json"):
        (tmp_path / name).write_text("[]")
    assert {path.name for path in publish.damaged(tmp_path)} == {"index.json", "spec.json", "index.json.json"}
