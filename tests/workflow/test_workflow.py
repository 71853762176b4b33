"""The real DAG, end to end at the smallest scale, and what it does when things change, break or are missing."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import browser
import numpy as np
import pytest
import yaml
from conftest import copy_project, edit, planned, snakemake
from PIL import Image
from scenes import write_depth, write_voc

from reals import files
from reals.experiment.load import load
from reals.experiment.metric_table import SETTINGS_ROWS
from reals.experiment.registry import Registry
from reals.machine import usage
from reals.experiment.spelling import MISSING
from reals.records import journal
from reals.report import early
from reals.training.log import read_log

pytestmark = pytest.mark.workflow

FIGURES = (
    "figure1", "figure2", "figure3", "figure4", "figure5", "checkpoints", "fid_over_steps", "guidance", "reconstructions",
    "curves", "cost",
)  # fmt: skip


def copy(finished: Path, tmp_path: Path) -> Path:
    """A second folder in the same state, times of change included."""
    folder = tmp_path / "copy"
    subprocess.run(["cp", "-a", str(finished), str(folder)], check=True)
    return folder


def test_every_table_and_figure_is_there(finished):
    root = finished / "results/smoke"
    for n in range(1, 15):
        for kind in ("md", "csv", "tex"):
            text = (root / f"tables/table{n:02d}.{kind}").read_text()
            assert "smoke" in text
            assert "…" not in re.sub(r"…[^\n]*missing", "", text), f"table {n} has missing cells"
    for name in FIGURES:
        assert (root / f"figures/{name}.png").stat().st_size > 2000
        assert (root / f"figures/{name}.pdf").read_bytes().startswith(b"%PDF")
    page = (root / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(FIGURES)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert not re.search(r"<script[^>]", page)


@pytest.mark.parametrize(("arguments", "gpus"), [([], "2"), (["--resources", "gpu=1"], "1")], ids=["all", "one"])
def test_jobs_of_one_machine_share_its_gpus_or_as_many_as_are_asked_for(project, arguments, gpus):
    made = Registry(load("imagenet256"))
    target = str(made.outputs(made.latents["reals"])[0])
    done = snakemake(
        project, target, "-n", "-p", "-c2", "--workflow-profile=none", "--config", "scale=imagenet256", *arguments,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "0,1"},
    )  # fmt: skip
    printed = done.stdout + done.stderr
    assert set(re.findall(r"gpus_per_node=(\d+)", printed)) == {"0", gpus}  # what Snakemake counts
    assert set(re.findall(r"--gpus (\d+) .*--together", printed)) == {gpus}  # what the job leases


@pytest.mark.extra
@pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
def test_the_report_of_a_run_opens_in_a_browser(finished, tmp_path):
    with browser.page(tmp_path) as tab:
        tab.size(375, 740, phone=True)
        tab.open(finished / "results/smoke/report.html")
        assert tab.run("[...document.images].filter(i => !(i.complete && i.naturalWidth)).length") == 0
        assert tab.run("document.images.length") == len(FIGURES)
        assert tab.run("document.documentElement.scrollWidth") <= 375
        assert tab.run("[...document.querySelectorAll('a')].every(a => document.getElementById(a.hash.slice(1)))")
        assert tab.run("document.querySelectorAll('td [data-tip]').length") > 300
        assert tab.complaints() == []


def test_snakemakes_own_report_has_captions_and_categories(finished, tmp_path):
    folder = copy(finished, tmp_path)
    snakemake(folder, "--report", "own.html")
    text = (folder / "own.html").read_text()
    for category in ("Tables", "Figures", "Everything on one page"):
        assert f'"{category}"' in text
    assert "silhouette of the classes" in text
    assert all(f"{name}.png" in text for name in FIGURES)


def test_one_table_can_be_asked_for_alone(finished, tmp_path):
    folder = copy(finished, tmp_path)
    registry = Registry(load("smoke", folder=folder / "config"))
    others = [registry.folder(registry.evaluations[name]) for name in ("sit-xl2-reals_2M_cfg1.4", "sit-b2-reals_400K")]
    for other in others:
        shutil.rmtree(folder / other)
    assert planned(folder, "only_table08") == {"only_table08": 1}
    assert planned(folder, "only_table05") == {"evaluate": 1, "only_table05": 1}  # the one that it shows


def test_a_table_on_request_is_made_when_it_is_asked_for_and_printed_from_then_on(finished, tmp_path):
    """VA-VAE's and EQ-VAE's arms, end to end; plain snakemake neither makes nor shows them."""
    folder = copy(finished, tmp_path)
    root = folder / "results/smoke"
    assert not (root / "tables/rivals.md").exists() and "VA-VAE" not in (root / "report.html").read_text()
    assert planned(folder) == {}
    snakemake(folder, "only_rivals")
    table = (root / "tables/rivals.md").read_text()
    assert MISSING not in table and "| VA-VAE's loss " in table
    assert "VA-VAE" in (root / "report.html").read_text()
    assert set(planned(folder)) <= {"report", "all"}  # `render` wrote the page
    registry = Registry(load("smoke", folder=folder / "config"))
    log = read_log(folder / registry.folder(registry.autoencoders["vf"]) / "log.jsonl")
    assert all(record["align_weighted"] > 0 and record["patch_distance"] >= 0 for record in log)


def test_the_end_says_where_the_time_went(finished):
    printed = (finished / "printed.txt").read_text()
    for stage in ("teacher", "autoencoder", "transformer", "sample", "evaluate", "engine", "all"):
        assert re.search(rf"^{stage}\b.*%$", printed, re.MULTILINE)


def test_the_page_is_there_while_the_run_goes_on_at_next_to_no_cost(finished):
    root = finished / "results/smoke"
    log, printed = (root / "logs/early.log").read_text(), (finished / "printed.txt").read_text()
    drawn = re.findall(r"drawn, (\d+) of (\d+) results measured; (\S+) CPU-seconds\n", log)
    assert drawn and "Traceback" not in log
    assert all(int(measured) < int(of) for measured, of, _ in drawn)
    spent = sum(record["cpu"] for record in journal.read(root / "journal.jsonl"))
    assert sum(float(cost) for *_, cost in drawn) < 0.02 * spent
    assert "not present when the DAG was created" not in printed
    assert "Unfinished" not in (root / "report.html").read_text()


def test_an_early_page_that_a_kill_left_behind_is_drawn_to_its_end(finished, tmp_path, monkeypatch):
    folder = copy(finished, tmp_path)
    monkeypatch.chdir(folder)
    pages = early.Pages(at(Path()), lambda: early.Work(["evaluation"], []))
    metrics, aside = pages.metrics[0], folder / "aside"
    metrics.rename(aside)
    pages.draw()
    page = folder / "results/smoke/report.html"
    assert "Unfinished" in page.read_text()
    snakemake(folder, "--cleanup-metadata", "results/smoke/report.html")  # as the driver of that run had done
    aside.rename(metrics)  # older than the tables, as if nothing had happened: only the page is not what it should be
    assert set(planned(folder)) == {"report", "all"}
    snakemake(folder)
    assert "Unfinished" not in page.read_text()
    assert planned(folder) == {}


def test_each_finished_job_is_a_line_with_its_name(finished):
    printed = (finished / "printed.txt").read_text()
    lines = re.findall(r"^\[(\d+)/(\d+)\] (.+): [\d:]+(?:, about [\d.]+ (?:s|min|h) left)?$", printed, re.MULTILINE)
    assert [int(number) for number, _, _ in lines] == list(range(1, len(lines) + 1))
    assert {int(total) for _, total, _ in lines} == {len(lines)} and len({name for _, _, name in lines}) == len(lines) > 150
    assert {"SiT-B/2 on ReaLS, 400K", "autoencoder SD-VAE", "figure1", "report"} <= {name for _, _, name in lines}
    assert "left" in printed and not re.search("jobid|Execute|Select jobs|progress is no", printed)


def test_a_terminal_shows_running_jobs_in_place(finished, tmp_path):
    folder = copy(finished, tmp_path)
    registry = at(folder)
    target = folder / registry.outputs(registry.evaluations["sit-b2-control_400K"])[0]
    target.unlink()
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "snakemake", str(target.relative_to(folder))], cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs,
        env=os.environ | {"TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    text = b""
    with contextlib.suppress(OSError):  # what a terminal says at its end
        while part := os.read(ours, 65536):
            text += part
    os.close(ours)
    assert process.wait() == 0 and target.exists()
    shown = text.decode()
    assert "evaluation of SiT-B/2 on control at 400K  0:0" in shown and "0 of 1 jobs done, 1 running\r\n" in shown
    assert "\033[2F\033[J" in shown and "jobid" not in shown


def test_a_second_call_has_nothing_to_do(finished):
    began = usage.cpu_seconds()  # the time on the wall is also that of what else the machine does
    assert "Nothing to be done" in "".join(snakemake(finished, env=dict(os.environ)).stderr)
    assert usage.cpu_seconds() - began < 10


def test_touching_everything_still_retrains_nothing(finished, tmp_path):
    folder = copy(finished, tmp_path)
    for path in sorted(folder.rglob("*"), key=lambda p: hash(str(p))):
        if path.is_file():
            os.utime(path)
    jobs = planned(folder)
    assert set(jobs) <= {"tables", "figure", "report", "all"}, jobs


def test_what_the_scale_says_is_printed_again_where_it_changes_and_nothing_else_is_made(project):
    scale, registry = Path("config/scales/smoke.yaml"), at(project)
    edit(Path("config/config.yaml"), "scale: demo", "scale: smoke")
    made = [output for artefact in registry.all() if artefact.kind != "data" for output in registry.outputs(artefact)]
    printed = [name for name, table in registry.experiment.tables.items() if not table.on_request]
    made += [registry.root / f"tables/{name}.{kind}" for name in printed for kind in ("md", "csv", "tex")]
    made += [registry.root / f"figures/{name}.{kind}" for name in FIGURES for kind in ("pdf", "png")]
    made += [registry.root / name for name in ("metrics.json", "evaluations.csv", "report.html")]
    for file in made:  # as Snakemake sees it, everything is there
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    snakemake(project, "--touch", "--forcerun", "tables", "figure", "report")
    assert planned(project) == {}
    for old, new in (("description: a smoke test", "description: a {smoke} test"), ("name: smoke", "name: smoke\npaper: true")):
        edit(scale, old, new)
        assert planned(project) == {"tables": 1, "report": 1, "all": 1}
        edit(scale, new, old)
    for sheet, old, new in (
        (scale, "4M:", "4.0M:"),
        (Path("config/runs.tsv"), ",4M", ",4.0M"),
        (Path("config/evaluations.tsv"), "\t4M", "\t4.0M"),
    ):
        edit(sheet, old, new)
    assert planned(project) == {"tables": 1, "figure": len(FIGURES), "report": 1, "all": 1}


def test_without_snakemakes_memory_nothing_is_retrained(finished, tmp_path):
    folder = copy(finished, tmp_path)
    shutil.rmtree(folder / ".snakemake")
    assert set(planned(folder)) <= {"tables", "figure", "report", "all"}


def test_one_hyper_parameter_remakes_what_depends_on_it_and_undoing_costs_nothing(finished, tmp_path):
    folder = copy(finished, tmp_path)
    shutil.rmtree(folder / ".snakemake")  # a clone has none
    sheet = folder / "config/autoencoders.tsv"
    edit(sheet, "reals-mlp4\tsd-vae\tlarge\tyes\tyes\t4\t2e-5", "reals-mlp4\tsd-vae\tlarge\tyes\tyes\t4\t3e-5")
    jobs = planned(folder)
    expensive = {k: v for k, v in jobs.items() if k not in ("tables", "figure", "report", "all")}
    assert expensive == {"autoencoder": 1, "latents": 1, "transformer": 1, "sample": 2, "evaluate": 1}
    edit(sheet, "3e-5", "2e-5")
    assert set(planned(folder)) <= {"tables", "figure", "report", "all"}


def test_a_new_row_in_three_sheets_is_a_new_arm(finished, tmp_path):
    folder = copy(finished, tmp_path)
    with (folder / "config/autoencoders.tsv").open("a") as file:
        file.write("reals-cls\tsd-vae\tlarge\tno\tyes\t2\t2e-5\t1.0\t-\t-\tcls features only\n")
    with (folder / "config/runs.tsv").open("a") as file:
        file.write("sit-b2-reals-cls\tSiT-B/2\treals-cls\tno\t400K\n")
    with (folder / "config/evaluations.tsv").open("a") as file:
        file.write("sit-b2-reals-cls_400K\tsit-b2-reals-cls\t400K\tsde\t1\t-\t-\t-\tall\n")
    with (folder / "config/tables/table05.tsv").open("a") as file:
        file.write("cls\t-\t+DINO cls alone\tsit-b2-reals-cls_400K\t-\t-\t-\t-\t-\t-\tour addition\n")
    snakemake(folder)
    assert "+DINO cls alone" in (folder / "results/smoke/tables/table05.md").read_text()


def test_labelled_images_give_figure_4_classes_and_depth_and_retrain_nothing(finished, tmp_path):
    folder = copy(finished, tmp_path)
    voc, depth = write_voc(tmp_path / "voc", 16, 40), write_depth(tmp_path / "depth", 16, 40)
    edit(
        folder / "config/scales/smoke.yaml", "downstream: {target: ink,",
        f"downstream: {{target: labelled, segmentation: {{name: scenes, layout: voc, path: {voc}, classes: 4}}, "
        f"depth: {{name: scenes, layout: depth, path: {depth}, relative: true}},",
    )  # fmt: skip
    assert {k for k in planned(folder) if k not in ("tables", "figure", "report", "all")} == {"downstream"}
    snakemake(folder)
    registry = at(folder)
    [made] = {a.id: a for a in registry.downstream.values()}.values()
    result = json.loads((folder / registry.folder(made) / "metrics.json").read_text())
    kinds = {"miou": 1, "absrel": None, "delta1": 1}
    named = {f"{k}_{of}" for k in kinds for of in ("teacher", "align", "base")} | {"miou_generated", "correlation_generated"}
    assert result["values"].keys() == named
    assert -1 <= result["values"].pop("correlation_generated") <= 1
    for name, value in result["values"].items():
        assert 0 <= value <= (kinds[name.split("_")[0]] or float("inf")), name
    assert "after scale and shift" in result["protocol"]["depth"]
    assert result["protocol"]["held-out images"] == "4 for segmentation, 4 for depth"
    assert result["protocol"]["heads"] == "segmentation: 3 steps, batch 8, 12 images; depth: 3 steps, batch 8, 12 images"
    with np.load(folder / registry.folder(made) / "maps.npz") as maps:
        assert maps["classes"].shape == maps["depth"].shape == maps["images"].shape[:3]
        assert maps["classes"].max() < 4 and "mask" not in maps.files


def test_render_marks_what_is_missing_and_starts_nothing(finished, tmp_path):
    folder = copy(finished, tmp_path)
    registry = at(folder)
    gone = registry.folder(registry.evaluations["sit-b2-reals_4M"])
    shutil.rmtree(folder / gone)
    shutil.rmtree(folder / "results/smoke/runs")
    shutil.rmtree(folder / "results/smoke/samples")
    done = snakemake(folder, "render")
    assert "missing: sit-b2-reals_4M" in done.stdout + done.stderr
    assert "…" in (folder / "results/smoke/tables/table03.md").read_text()
    assert not (folder / "results/smoke/runs").exists()


def at(folder: Path) -> Registry:
    return Registry(load("smoke", folder=folder / "config"))


def test_every_measured_number_says_where_it_came_from(finished):
    registry = at(finished)
    for name in registry.experiment.table_evaluations:
        result = json.loads((finished / registry.folder(registry.evaluations[name]) / "metrics.json").read_text())
        assert set(result["values"]) >= {"fid", "sfid", "is", "precision", "recall"}
        assert {"run", "step", "checkpoint_sha256", "data_sha256", "code", "autoencoder"} <= set(result["provenance"])
        assert {"samples", "sampler", "training steps", "feature extractor", "seeds", "reference"} <= set(result["protocol"])
        assert result["protocol"]["precision and recall"] == "k = 3, 100 reference images against 24 samples"
    tables = [(finished / f"results/smoke/tables/table{n:02d}.md").read_text() for n in (3, 8)]
    assert "- precision and recall: k = 3, 100 reference images against 24 samples\n" in tables[0] and "planned" not in tables[0]
    assert "- images: 20 held-out\n" in tables[1]


def test_torch_fidelity_finds_the_same_fid_with_the_registered_network(finished, monkeypatch):
    import numpy as np
    import torch
    import torch_fidelity

    from reals.stages.context import Context
    from reals.stages.inputs import load_extractor

    monkeypatch.chdir(finished)
    context = Context(at(finished))
    load_extractor(context)
    registry, train = context.registry, context.images("train")

    class Bytes(torch.utils.data.Dataset):
        def __init__(self, array):
            self.array = array

        def __len__(self):
            return len(self.array)

        def __getitem__(self, i):
            return torch.from_numpy(self.array[i].copy())

    place = registry.folder(registry.samples["sit-b2-reals_400K"])
    samples = np.concatenate([np.load(place / f"shard_{k:03d}.npy") for k in range(2)])
    theirs = torch_fidelity.calculate_metrics(
        input1=Bytes(samples), input2=Bytes(train.batch(np.arange(len(train)))), fid=True, cuda=False, cache=False, verbose=False,
        feature_extractor=context.scale.evaluation.extractor.name, batch_size=16, save_cpu_ram=True,
    )  # fmt: skip
    ours = json.loads((registry.folder(registry.evaluations["sit-b2-reals_400K"]) / "metrics.json").read_text())
    assert ours["values"]["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)


def test_shards_and_batches_do_not_change_a_sample(finished, tmp_path):
    import numpy as np

    folder = copy(finished, tmp_path)
    registry = at(folder)
    place = folder / registry.folder(registry.samples["sit-b2-reals_1M_cfg1.5"])
    before = np.concatenate([np.load(place / f"shard_{k:03d}.npy") for k in range(2)])
    shutil.rmtree(place)
    edit(folder / "config/scales/smoke.yaml", "batch: 12, shards: 2", "batch: 7, shards: 1")
    snakemake(folder, str(registry.folder(registry.samples["sit-b2-reals_1M_cfg1.5"]) / "shard_000.npy"))
    after = np.load(place / "shard_000.npy")
    # float32 sums may differ in the last bit with the batch size, which can move a byte by one level
    assert np.abs(before.astype(int) - after.astype(int)).max() <= 1
    assert (before == after).mean() > 0.999


def test_a_disk_that_fills_while_sampling_is_one_line_and_the_same_command_goes_on(finished, tmp_path):
    folder = copy(finished, tmp_path)
    place = at(folder).folder(at(folder).samples["sit-b2-reals_400K"])
    wanted = (folder / place / "shard_001.npy").read_bytes()
    shutil.rmtree(folder / place)
    (folder / place).mkdir()
    # Room for the batch (40 kB of images and latents), not for the shard made of it as well.
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder / place)]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        done = snakemake(folder, str(place / "shard_001.npy"), check=False)
        text = done.stdout + done.stderr
        assert done.returncode != 0 and "Traceback" not in text
        [line] = [line for line in text.splitlines() if "no room for" in line]
        assert f"{place}: no room for shard_001.npy" in line and "run the same command again" in line
        assert {p.name for p in (folder / place).iterdir()} == {"spec.json", "parts", "made"}
        assert len(list((folder / place / "parts").iterdir())) == 1
        subprocess.run(["mount", "-o", "remount,size=1m", str(folder / place)], check=True)
        snakemake(folder, str(place / "shard_001.npy"))
        assert (folder / place / "shard_001.npy").read_bytes() == wanted
    finally:
        subprocess.run(["umount", "-l", str(folder / place)], check=True)


@pytest.mark.extra  # kills of one training are in tests/training/test_faults.py
def test_killed_outright_the_same_command_ends_with_the_same_weights(finished, tmp_path):
    folder = tmp_path / "again"
    copy_project(folder) if folder.mkdir() is None else None
    edit(folder / "config/config.yaml", "scale: demo", "scale: smoke")
    registry = at(folder)
    target = str(registry.folder(registry.runs["sit-b2-reals"]) / "step_4.safetensors")
    for seconds in (6, 9):
        process = subprocess.Popen(
            [sys.executable, "-m", "snakemake", target],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)  # only the driver, as when its terminal is gone
            process.wait()
    snakemake(folder, target)

    def tensors(path: Path) -> dict:
        from safetensors.torch import load_file

        return load_file(path)

    one, other = tensors(folder / target), tensors(finished / target)
    assert all((one[k] == other[k]).all() for k in other)


def test_an_interrupted_jobs_marker_does_not_hide_what_is_missing(finished, tmp_path):
    import base64

    folder = copy(finished, tmp_path)
    registry = at(folder)
    cache = registry.folder(registry.latents["reals-mlp1"]) / "index.json"
    markers = folder / ".snakemake/incomplete"
    markers.mkdir(exist_ok=True)
    (markers / base64.b64encode(str(cache).encode()).decode()).touch()
    shutil.rmtree(folder / registry.folder(registry.runs["sit-b2-reals-mlp1"]))
    target = str(registry.folder(registry.runs["sit-b2-reals-mlp1"]) / "step_2.safetensors")
    assert planned(folder, target) == {"transformer": 1}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config", "scale=imagenet25"], "did you mean 'imagenet256'"),
        (["--config", "scle=demo"], "scle: unknown key"),
        (["--config", "scale=cifar10", "data=/no/such/folder"], "/no/such/folder is not a folder"),
        (["--config", "scale=imagenet256"], "data/imagenet is not a folder"),
    ],
)
def test_a_mistake_on_the_command_line_gets_one_line(project, arguments, says):
    done = snakemake(project, *arguments, check=False)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("reals: ")]
    assert len(lines) == 1
    assert says in lines[0]
    assert "Traceback" not in done.stderr
    assert not list((project / "results").rglob("*.safetensors"))


def test_a_second_snakemake_is_refused_in_one_line_and_goes_on_when_the_first_has_ended(finished, tmp_path):
    folder = copy(finished, tmp_path)
    target = "results/smoke/tables/table03.md"
    (folder / target).unlink()
    with files.lock(folder / "results/smoke/.snakemake.lock", "results/smoke"):
        done = snakemake(folder, target, check=False)
    [line] = [line for line in done.stderr.splitlines() if line.startswith("reals: ")]
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert re.search(rf"results/smoke is being written by .* pid {os.getpid()}; wait for it or stop it", line)
    assert not (folder / target).exists()
    snakemake(folder, target)
    assert (folder / target).exists()


def test_a_site_file_without_a_key_is_one_line_and_starts_nothing(project):
    edit(project / "config/site.yaml", "account: null", "# account: null")
    done = snakemake(project, "--config", "scale=smoke", check=False)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "reals: config/site.yaml: account: Field required"
    assert not (project / "results").exists()


def test_without_slurm_its_profile_says_so(project):
    tools = project / "tools"
    tools.mkdir()
    for name in ("bash", "sh", "git", "which", "nice", "env", "uname"):
        (tools / name).symlink_to(shutil.which(name))
    path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if not Path(p, "sinfo").exists())
    target = str(at(project).outputs(at(project).runs["sit-b2-reals"])[0])
    done = snakemake(
        project, target, "--profile", "profiles/slurm", "--config", "scale=smoke", check=False,
        env=os.environ | {"PATH": f"{path}:{tools}"},
    )  # fmt: skip
    assert done.returncode != 0 and "Traceback" not in done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("reals: ")]
    assert "no SLURM on this machine (sinfo not found)" in line


def test_too_little_disk_is_said_before_work_starts(project):
    edit(project / "config/scales/smoke.yaml", "samples: 24", "samples: 2400000000")
    done = snakemake(project, "--config", "scale=smoke", check=False)
    assert done.returncode != 0
    assert re.search(r"reals: disk: .* GB free, about .* GB are still needed", done.stderr)


def test_a_disk_that_fills_during_generation_stops_with_one_line_and_the_same_command_goes_on(finished, tmp_path):
    folder = copy(finished, tmp_path)
    edit(folder / "config/scales/smoke.yaml", "samples: 24", "samples: 480")
    registry = Registry(load("smoke", folder=folder / "config"))
    target = registry.outputs(registry.samples["sit-b2-reals_400K"])[0]
    disk = folder / target.parent
    disk.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        done = snakemake(folder, str(target), check=False)
        assert done.returncode != 0
        said = [line for line in done.stdout.splitlines() + done.stderr.splitlines() if "no room for" in line]
        assert said and all("make room and run the same command again" in line for line in said)
        assert "Traceback" not in done.stdout + done.stderr
        kept = sorted((disk / "parts").glob("*.npz"))
        assert kept and not (folder / target).exists()
        with np.load(kept[0]) as part:
            marked = {name: part[name] for name in part.files}
        marked["images"][:] = 7  # to be seen in the end: what was done is not done again
        np.savez(kept[0], **marked)
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        snakemake(folder, str(target))
        shard = np.load(folder / target)
        assert shard.shape == (240, 3, 32, 32)
        assert (shard[:12] == 7).all() and not (shard[12:] == 7).all()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_home_that_cannot_be_written_and_names_as_typed(project, tmp_path):
    """A file in the home's place keeps root out too."""
    (tmp_path / "home").touch()
    environment = {k: v for k, v in os.environ.items() if k != "XDG_CACHE_HOME"} | {"HOME": str(tmp_path / "home")}
    done = snakemake(project, "-n", "--config", "scale=smoke", "data=0042", "site=0042", env=environment, check=False)
    assert f"reals: {tmp_path}/home/.cache cannot be written; caches go to " in done.stderr
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("reals: 0042: ")  # no site file, of that very name


def test_an_undefined_table_is_refused(project):
    done = snakemake(project, "-n", "results/demo/tables/table99.md", check=False)
    assert done.returncode != 0
    assert "table99" in done.stdout + done.stderr
    shutil.copy(project / "config/tables/table05.tsv", project / "config/tables/table99.tsv")
    done = snakemake(project, "-n", check=False)
    assert "table 'table99' is not defined in" in done.stderr


@pytest.mark.parametrize(("scale", "least"), [("demo", 150), ("cifar10", 190), ("imagenet256", 430)])
def test_other_scales_are_planned_in_seconds(project, scale, least):
    began = usage.cpu_seconds()
    jobs = planned(project, "--config", f"scale={scale}", env=dict(os.environ))
    assert usage.cpu_seconds() - began < 10
    assert sum(jobs.values()) >= least
    experiment = load(scale)
    assert jobs["evaluate"] == len(experiment.table_evaluations)
    on_request = {row.source for table in experiment.tables.values() if table.on_request for row in table.rows}
    shown = experiment.table_evaluations
    unasked = {name: row for name, row in experiment.evaluations.items() if (row.repeat_of or name) not in on_request or name in shown}
    runs = {row.run for row in unasked.values()}
    assert jobs["transformer"] == sum(len(experiment.runs[name].milestones) for name in runs)
    whole = sum(row.samples == "all" for row in unasked.values())
    assert jobs["sample"] == whole * experiment.scale.sampling.shards + len(unasked) - whole
    assert ("features" in jobs) == (scale != "imagenet256")


def test_every_cell_of_every_table_has_its_source(project):
    experiment = load("imagenet256")
    assert list(experiment.tables) == [*(f"table{n:02d}" for n in range(1, 15)), "rivals"]
    for table in experiment.tables.values():
        assert table.rows
        for row in table.rows:
            if row.source == "literature":
                assert any(v is not None for v in row.published.values()), (table.name, row.key)
            else:
                known = {
                    "evaluation": experiment.evaluations,
                    "autoencoder": experiment.autoencoders,
                    "settings": SETTINGS_ROWS,
                }
                assert row.source in known[table.source]


def write_photographs(folder: Path) -> None:
    """An ImageFolder as people have them: mixed sizes and modes, unbalanced classes."""
    random = np.random.default_rng(0)
    for name, count in (("cat", 14), ("dog", 9), ("eel", 30)):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            size = random.integers(20, 90, 2)
            image = Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8))
            image.convert(["RGB", "L", "CMYK"][i % 3]).save(folder / name / f"{i}.jpg")


@pytest.mark.extra
def test_own_photographs_at_64_pixels_by_a_copy_of_the_scale_file(project):
    write_photographs(project / "photos")
    values = yaml.safe_load((project / "config/scales/cifar10.yaml").read_text())
    values |= {
        "name": "mine", "description": "53 photographs at 64x64", "milestones": {"early": 2, "middle": 4, "late": 6},
        "analysis": {"images": 4, "probe_images": 40, "tsne_classes": 3, "tsne_images": 4},
    }  # fmt: skip
    values["data"] |= {"name": "photos", "source": "folder", "path": "photos", "resolution": 64, "held_out": 0.2}
    values["transformer"]["batch"] = values["autoencoder"]["batch"] = 8
    values["autoencoder"]["steps"] = 3
    values["sampling"] |= {"steps": 4, "samples": 24, "gallery": 8, "batch": 24}
    values["evaluation"]["pr_reference"] = 30
    for trained in (
        *values["teachers"].values(),
        values["bases"]["sd-vae"],
        *(values["evaluation"][k] for k in ("extractor", "second")),
    ):
        trained |= {"steps": 3, "batch": 8}
    (project / "mine.yaml").write_text(yaml.safe_dump(values))
    registry = Registry(load(str(project / "mine.yaml"), folder=project / "config"))
    target = registry.folder(registry.evaluations["sit-b4-reals_late_cfg1.5"]) / "metrics.json"
    snakemake(project, str(target), str(registry.root / "figures/reconstructions.png"), "--config", "scale=mine.yaml")
    result = json.loads((project / target).read_text())
    assert result["protocol"]["data"] == "photos 64x64"
    assert {"fid", "fid_second", "recall"} <= result["values"].keys()
    assert np.load(project / target.with_name("pictures.npz"))["images"].shape == (16, 64, 64, 3)


def test_own_photographs_by_a_path(project):
    write_photographs(project / "photos")
    scale = project / "config/scales/smoke.yaml"
    edit(scale, "pr_reference: 100", "pr_reference: 30")
    edit(scale, "target: ink", "target: foreground")
    arguments = ["--config", "scale=smoke", "data=photos"]
    registry = Registry(load("smoke", data="photos"))
    target = registry.folder(registry.evaluations["sit-b2-reals_400K"]) / "metrics.json"
    figure = registry.root / "figures/figure4.png"
    snakemake(project, str(target), str(figure), *arguments)
    result = json.loads((project / target).read_text())
    assert result["protocol"]["data"] == "photos 32x32"
    assert (project / figure).exists()


def spoil(state: Path) -> None:
    """Other numbers in a training state or a cache's shard, with the checksum that belongs to them."""
    if state.suffix == ".npy":
        np.save(state, 2 * np.load(state))
        record = state.with_name(f"shard_{state.stem.split('_')[1]}.json")
        facts = json.loads(record.read_text())
        facts["files"][state.name] |= {"sha256": files.sha256(state), "bytes": state.stat().st_size}
        record.write_text(json.dumps(facts))
        return
    import torch

    def doubled(value):
        if isinstance(value, dict):
            return {key: doubled(part) for key, part in value.items()}
        return 2 * value if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    torch.save(doubled(torch.load(state, weights_only=True)), state)
    state.with_suffix(".sha256").write_text(files.sha256(state))


def test_what_is_forced_begins_anew_with_all_that_is_made_from_it(finished, tmp_path):
    """Each job finds something wrong that it would have gone on from; all ends with the bits of before."""
    from safetensors.torch import load_file

    folder = copy(finished, tmp_path)
    registry = at(folder)
    evaluation, run = registry.evaluations["sit-b2-reals_400K"], registry.runs["sit-b2-reals"]
    latents, samples = registry.latents["reals"], registry.samples["sit-b2-reals_400K"]
    autoencoders = [registry.autoencoders[name] for name in ("sd-vae", "reals")]
    states, place = folder / registry.states(run), folder / registry.folder(run)
    metrics, weights = folder / registry.folder(evaluation) / "metrics.json", place / "step_2.safetensors"
    later = place / "step_4.safetensors"
    before, kept, values = load_file(weights), later.read_bytes(), json.loads(metrics.read_text())["values"]
    left = [states / "step_00000002.pt", folder / registry.folder(latents) / "moments_00000.npy"]
    left += [folder / registry.folder(each) / "state/step_00000003.pt" for each in autoencoders]
    for state in left:
        spoil(state)
    part = folder / registry.folder(samples) / "parts/000_000000_12.npz"
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(b"no part")
    made = {"autoencoder": 2, "latents": 1, "transformer": 1, "sample": 2, "evaluate": 1}
    target = str(metrics.relative_to(folder))
    assert planned(folder, target, "-R", "autoencoder") == made
    assert planned(folder, target, "-f") == {"evaluate": 1}
    done = snakemake(folder, target, "-R", "autoencoder")
    found = load_file(weights)
    assert found.keys() == before.keys() and all((found[key] == before[key]).all() for key in before)
    assert later.read_bytes() == kept and json.loads(metrics.read_text())["values"] == values
    [said] = [line for line in done.stderr.splitlines() if "made again from the start, as told" in line]
    assert "not asked for, so still of before: " in done.stderr
    places = said.split(" is now in ")[1].split(", ")
    assert [Path(each).parts[2] for each in places] == ["autoencoders", "latents", "metrics", "runs", "samples", "states"]
    assert sorted(path.name for path in (folder / places[-1] / run.id).glob("*.pt"))[0] == "step_00000002.pt"
    assert not list(states.glob("step_00000004.*")), "of a run that is made again no state stays"
    assert planned(folder, target) == {}
