"""Every file a stage makes says what it was made from, and the way back to data and seeds is printed."""

import contextlib
import html
import json
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import copy_project

from reals import files
from reals.cli.main import main
from reals.experiment.graph import Graph
from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.records import provenance
from reals.report import commands


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """The smoke scale up to an autoencoder's measurements, each stage run as Snakemake runs it."""
    folder = tmp_path_factory.mktemp("measured")
    copy_project(folder)
    with contextlib.chdir(folder):
        registry = Registry(load("smoke"))
        base = registry.autoencoders["sd-vae"]
        for stage, artefact in (("data", registry.data), ("extractor", registry.extractor), ("autoencoder", base),
                                ("analyse", registry.analyses["sd-vae"])):  # fmt: skip
            assert main(["stage", stage, artefact.id, "--config", "scale=smoke"]) == 0
    return folder


@pytest.fixture
def made(project, measured) -> Registry:
    """A copy of ``measured``, as the current folder."""
    shutil.copytree(measured / "results", project / "results", symlinks=True)
    return Registry(load("smoke"))


def test_a_cell_leads_back_to_data_and_seeds(made, capsys):
    analysis = made.analyses["sd-vae"]
    metrics = made.folder(analysis) / "metrics.json"
    value = files.read_json(metrics)["values"]["sc_crop"]
    assert main(["why", "table02:sd-vae:sc_crop", "--config", "scale=smoke"]) == 0
    printed = capsys.readouterr().out
    assert f"sc_crop = {value:.6g} (published 0.33)" in printed
    for artefact in (made.data, made.extractor, made.autoencoders["sd-vae"], analysis):
        assert f"{artefact.kind} {artefact.id}" in printed
    assert "row: sheet autoencoders.tsv, name sd-vae, init base" in printed
    assert f"seed {made.extractor.spec.seed}" in printed and "torch 2" in printed
    assert f"again: snakemake {metrics} --config scale=smoke" in printed
    for what in (str(metrics), analysis.id, str(metrics.resolve()), str(metrics.with_name("latents.npz"))):
        assert main(["why", what, "--config", "scale=smoke"]) == 0
        assert f"{analysis.kind} {analysis.id}" in capsys.readouterr().out


def test_the_record_holds_inputs_times_and_versions(made):
    target = Path(Graph(made).target(made.autoencoders["sd-vae"]))
    record = files.read_json(provenance.path_of(target))
    data = Graph(made).target(made.data)
    assert record["inputs"] == {data: files.sha256(Path(data))}
    assert record["row"]["name"] == "sd-vae" and record["scale"] == "smoke" and record["packages"]["torch"]
    (attempt,) = record["attempts"]
    assert attempt["wall"] > 0 < attempt["cpu"] and attempt["device"] and attempt["code"] == files.code_version()
    assert main(["stage", "autoencoder", made.autoencoders["sd-vae"].id, "--config", "scale=smoke"]) == 0
    assert len(files.read_json(provenance.path_of(target))["attempts"]) == 2


def test_an_input_that_changed_since_is_said(made, capsys):
    data = made.folder(made.data) / files.MANIFEST
    content = json.loads(data.read_text())
    files.write_json(data, content | {"skipped": 7})
    assert main(["why", made.autoencoders["sd-vae"].id, "--config", "scale=smoke"]) == 0
    assert "DIFFERS: it was" in capsys.readouterr().out


def test_commands_can_be_pasted_whatever_the_folder_is_called(project):
    registry = Registry(load("cifar10", data="/my photos"))
    command = provenance.remake(registry, Path("results/x y/metrics.json"))
    assert shlex.split(command) == ["snakemake", "results/x y/metrics.json", "--config", "scale=cifar10", "data=/my photos"]
    evaluation = registry.evaluations["sit-b4-sd-vae_late"]
    result = {"kind": "evaluation", "name": evaluation.name, "id": evaluation.id, "values": {"fid": 9.0}}
    registry.folder(evaluation).mkdir(parents=True)
    files.write_json(registry.folder(evaluation) / "metrics.json", result | {"protocol": {}, "provenance": {}})
    commands.report(registry)
    page = html.unescape((registry.root / "report.html").read_text())
    assert "metrics.json --config scale=cifar10 'data=/my photos'" in page  # the command that makes it again
    assert "sd-vae-late:fid --config scale=cifar10 'data=/my photos'" in page  # and the one for its lineage
