"""The benchmark of a whole run: from a journal to a table that marks what became slower."""

import importlib.util
import json

import pytest
from conftest import REPOSITORY

from reals.records import journal

spec = importlib.util.spec_from_file_location("bench_demo", REPOSITORY / "benchmarks/bench_demo.py")
bench_demo = importlib.util.module_from_spec(spec)
JOBS = [
    {"stage": "sample", "began": 1.0, "wall": 9.0, "cpu": 20.0, "work": 18.0, "device": "a CPU, 1 thread"},
    {"stage": "evaluate", "began": 2.0, "wall": 2.0, "cpu": 4.0, "work": 1.0, "device": "a CPU, 1 thread"},
    {"stage": "render", "began": 3.0, "wall": 2.0, "cpu": 3.0, "work": 0.0},
]


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder of a finished run; numbers are written beside it, and the reference work takes 0.1 s."""
    spec.loader.exec_module(bench_demo)
    monkeypatch.setattr(bench_demo, "WRITTEN", tmp_path / "bench_demo.json")
    monkeypatch.setattr(bench_demo, "reference_seconds", lambda: 0.1)
    return finished(tmp_path, *JOBS)


def finished(folder, *jobs):
    book = folder / "journal.jsonl"
    book.write_text("".join(json.dumps(job) + "\n" for job in jobs))
    journal.note_engine(book, 0.0, 10.0)
    return folder


def bench(*options):
    return bench_demo.main([str(option) for option in options])


def test_what_became_slower_is_marked_and_the_exit_code_says_so(results, monkeypatch, capsys):
    assert bench("--of", results) == 2
    assert "nothing of scale demo to compare with; --write" in capsys.readouterr().out
    assert bench("--of", results, "--write") == 0
    written = json.loads(bench_demo.WRITTEN.read_text())["demo"]
    stages = {"sample": 20.0, "evaluate": 4.0, "render": 3.0, "engine": 10.0, "beside work": 18.0, "all": 37.0}
    assert written["stages"] == stages and written["protocol"]["devices"] == "a CPU, 1 thread"
    slow = finished(results, *[job | {"cpu": 1.5 * job["cpu"]} for job in JOBS])  # 2 s more of evaluating are not yet a slowdown
    capsys.readouterr()
    assert bench("--of", slow) == 1
    lines = {line[:14].strip(): line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines["sample"][1:] == ["30.0", "20.0", "1.50", "slower"]
    assert lines["evaluate"][1:] == ["6.0", "4.0", "1.50"]
    assert lines["engine"][1:] == ["10.0", "10.0", "1.00"]
    monkeypatch.setattr(bench_demo, "reference_seconds", lambda: 0.15)  # the machine is as much slower
    assert bench("--of", slow) == 0


@pytest.mark.parametrize("runs", [0, 2])
def test_a_journal_of_more_or_less_than_one_run_is_refused(results, runs, capsys):
    book = results / "journal.jsonl"
    book.write_text("".join(json.dumps(job) + "\n" for job in JOBS))
    for _ in range(runs):
        journal.note_engine(book, 0.0, 10.0)
    with pytest.raises(SystemExit) as ended:
        bench("--of", results)
    assert ended.value.code == 2
    assert f"journal.jsonl: 3 jobs and the end of {runs} runs" in capsys.readouterr().err
