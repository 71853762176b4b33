"""The journal of finished jobs: its summary, and the plan beside it."""

from pathlib import Path

import pytest

from reals import files
from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.machine import usage
from reals.planning.cost import Costs
from reals.records import journal


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


def test_lines_that_are_no_record_are_passed_over(tmp_path):
    book = tmp_path / "journal.jsonl"
    with journal.job(book, "data", "data-0"):
        pass
    for line in (
        '{"stage": "data"}',
        '{"stage": "data", "began": "x", "wall": 1, "cpu": 1}',
        "[1]",
        '{"stage": 3, "began": 1, "wall"',
    ):
        with book.open("a") as file:
            file.write(line + "\n")
    with journal.job(book, "features", "features-0"):
        pass
    assert [record["artefact"] for record in journal.read(book)] == ["data-0", "features-0"] and journal.engines(book) == []
