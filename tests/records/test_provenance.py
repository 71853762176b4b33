"""`reals why`: every file a stage makes says what it was made from, and the way back to data and seeds is printed."""

import html
import json
import shlex
from pathlib import Path

import pytest

from reals import files
from reals.cli.main import main
from reals.experiment.graph import Graph
from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.experiment.repeats import repeats
from reals.machine import usage
from reals.planning.cost import Costs
from reals.records import journal, provenance
from reals.report import commands, results


@pytest.fixture
def made(project) -> Registry:
    """The smoke scale up to an autoencoder's measurements, each stage run as Snakemake runs it."""
    registry = Registry(load("smoke"))
    base = registry.autoencoders["sd-vae"]
    for stage, artefact in (("data", registry.data), ("extractor", registry.extractor), ("autoencoder", base),
                            ("analyse", registry.analyses["sd-vae"])):  # fmt: skip
        assert main(["stage", stage, artefact.id, "--config", "scale=smoke"]) == 0
    return registry


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
    assert f"seed {made.extractor.spec['seed']}" in printed and "torch 2" in printed
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


def test_what_is_not_made_yet_has_a_lineage_too(project, capsys):
    assert main(["why", "table03:sit-b2-reals_400K:fid", "--config", "scale=imagenet256"]) == 0
    printed = capsys.readouterr().out
    assert "is not measured yet (published 27.53)" in printed and "(not here)" in printed
    assert "run sit-b2-reals" in printed and "step 400000" in printed and "teacher dinov2-large-reg" in printed


def test_a_cell_that_is_a_mean_says_so_and_has_a_lineage_for_each_seed(project, capsys):
    registry = Registry(load("cifar10"))
    row = next(r for r in registry.experiment.tables["arms"].rows if r.source == "sit-b2-reals_late")
    names = repeats(registry.experiment.evaluations, row.source)
    paths = [registry.folder(registry.evaluations[name]) / "metrics.json" for name in names.values()]
    for path, value in zip(paths[:2], (10.0, 13.0), strict=True):
        path.parent.mkdir(parents=True)
        files.write_json(path, {"id": path.parent.name, "values": {"fid": value}})
    result = results.load(registry)["evaluation", row.source]
    assert (result["planned"], [repeat["seed"] for repeat in result["repeats"]]) == (3, [0, 1])

    def printed(column: str) -> str:
        assert main(["why", f"arms:{row.key}:{column}", "--config", "scale=cifar10"]) == 0
        return capsys.readouterr().out

    text = printed("fid")
    assert f"arms, row {row.key}, fid = 11.5 ± 2.12132, mean of 2 of 3 seeds (seed 0: 10, seed 1: 13)" in text
    for name, path in zip(names.values(), paths, strict=True):
        assert f"evaluation {registry.evaluations[name].id}" in text and text.count(f"{path}  sha256") == (path != paths[2])
        run = registry.evaluations[name].needed("samples").needed("run")
        assert f"run {run.id}" in text and f"autoencoder {run.needed('latents').needed('autoencoder').id}" in text
    assert f"again: snakemake {' '.join(map(str, paths))} --config scale=cifar10" in text
    assert "sfid is not measured yet\n" in printed("sfid")
    assert "all columns, 3 seeds\n" in printed("")
    paths[0].unlink()
    assert "fid is not measured yet\n" in printed("fid")  # nor does the table print a mean without the sheet's own row


def test_of_many_seeds_only_the_first_are_in_full(project):
    registry = Registry(load("cifar10"))
    many = [Graph(registry).target(a) for name, a in registry.evaluations.items() if name.startswith("sit-b2-reals_late")][:5]
    lines = list(provenance.lineage(registry, *many))
    assert [line for line in lines if line.startswith("evaluation")][-1] == lines[-3] and lines[-2].strip() == many[-1]
    assert lines[-1] == "(the last 2 in short; `reals why` of a file has the rest)"


def test_commands_can_be_pasted_whatever_the_folder_is_called(project):
    registry = Registry(load("cifar10", data="/my photos"))
    command = provenance.remake(registry, Path("results/x y/metrics.json"))
    assert shlex.split(command) == ["snakemake", "results/x y/metrics.json", "--config", "scale=cifar10", "data=/my photos"]
    evaluation = registry.evaluations["sit-b2-sd-vae_late"]
    result = {"kind": "evaluation", "name": evaluation.name, "id": evaluation.id, "values": {"fid": 9.0}}
    registry.folder(evaluation).mkdir(parents=True)
    files.write_json(registry.folder(evaluation) / "metrics.json", result | {"protocol": {}, "provenance": {}})
    commands.report(registry)
    page = html.unescape((registry.root / "report.html").read_text())
    assert "metrics.json --config scale=cifar10 'data=/my photos'" in page  # the command that makes it again
    assert "sd-vae-late:fid --config scale=cifar10 'data=/my photos'" in page  # and the one for its lineage


@pytest.mark.parametrize(
    ("what", "says"),
    [("table99:a:fid", "there is no table 'table99'"), ("table03:a:fid", "table03 has no row 'a'; known: dit-b2-sd-vae_400K"),
     ("table03:sit-b2-reals_400K:fids", "table03 has no column 'fids'; known: fid, sfid, is"),
     ("table04:biggan-deep:fid", "typed from the paper (6.95); nothing measures it"),
     ("table01:autoencoder:lr", "a setting; it is read from the scale file"),
     ("results/demo/nothing.json", "nothing of scale 'demo' is called so")],
)  # fmt: skip
def test_what_there_is_no_answer_to(project, capsys, what, says):
    assert main(["why", what]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_the_summary_sets_the_plan_beside_what_was_used(tmp_path):
    book = tmp_path / "journal.jsonl"
    with journal.job(book, "transformer", "run-0", 400, "a device"), usage.work():
        sum(range(10**6))
    with journal.job(book, "evaluate", "evaluation-0"):
        pass
    records = journal.read(book)
    assert records[0]["number"] == 400 and records[0]["device"] == "a device" and "gpus" not in records[0]
    text = journal.summary(journal.by_stage(records), 2.0, 0.5, {"transformer": 12.5})
    header, transformer, evaluate, engine, whole = text.splitlines()
    assert "plan s" in header and "GPU s" not in header and "queued s" not in header
    assert "12.5" in transformer and "12.5" not in evaluate and "0.5" in engine and "12.5" in whole
    on_gpus = [r | {"gpus": 8, "wall": 10.0, "queued": 33.0} for r in records]
    text = journal.summary(journal.by_stage(on_gpus), 2.0, 0.5)
    assert "GPU s" in text and "80.0" in text and "160.0" in text and "66.0" in text and "plan s" not in text


def test_energy_counters_that_wrap():
    before, after = {"a": (900, 1000), "b": (0, 1000)}, {"a": (100, 1000), "b": (500, 1000)}
    assert usage.energy_between(before, after) == pytest.approx((200 + 500) / 1e6 / 3600)
    assert usage.energy_between({}, after) is None


def test_the_plan_of_a_journal_counts_shards_and_milestones(project):
    from reals.planning import cost, rates

    registry = Registry(load("smoke"))
    costs = Costs(registry)
    files.write_json(
        rates.measured_path("a device"),
        {"device": "a device", "threads": 1, "date": "x", "peak_tflops": {"fp32": 1},
         "scales": {"smoke": {"date": "x", "tflops": {"fp32": dict.fromkeys(rates.KINDS, 1e-6)}}}},
    )  # fmt: skip
    run, samples = registry.runs["sit-b2-reals"], registry.samples["sit-b2-reals_400K"]
    records = [{"stage": "transformer", "artefact": run.id, "number": 4, "device": "a device"},
               {"stage": "sample", "artefact": samples.id, "number": 1, "device": "a device"},
               {"stage": "sample", "artefact": samples.id, "number": 0, "device": "another"}]  # fmt: skip
    found = cost.estimated(costs, records, Path("config/rates.yaml"))
    assert found["transformer"] == pytest.approx(costs.jobs[costs.graph.target(run, 4)].flops / 1e6)
    assert found["sample"] == pytest.approx(costs.jobs[costs.graph.target(samples)].flops / 1e6 / 2)
