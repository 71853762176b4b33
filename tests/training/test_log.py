"""A run's log has each step once, survives a kill, and tensorboard is shown the same numbers."""

import json
import sys
import types

from lines import Line, run

from reals.experiment.engine import EngineConfig
from reals.training import loop
from reals.training.log import Log, read_log


def test_event_files_hold_what_the_log_holds_and_start_anew_where_a_run_goes_on(tmp_path, monkeypatch):
    written, purged = {}, []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            assert folder == str(tmp_path / "tensorboard")
            purged.append(purge_step)

        def add_scalar(self, name, value, step):
            written.setdefault(step, {})[name] = value

        def close(self):
            written["closed"] = True

    package = types.ModuleType("torch.utils.tensorboard")
    package.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", package)
    engine = EngineConfig(log_every=1, tensorboard=True)
    for steps in (3, 6):
        loop.train(Line(), tmp_path, steps, label="line", engine=engine)
        assert written.pop("closed")
    assert purged == [1, 4]
    assert written == {record["step"]: record for record in read_log(tmp_path / "log.jsonl")}


def test_without_tensorboard_one_line_says_so_and_training_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    loop.train(Line(), tmp_path, 2, label="line", engine=EngineConfig(log_every=1, tensorboard=True))
    assert "the package tensorboard is not installed; log.jsonl holds the same numbers" in capsys.readouterr().err
    assert len(read_log(tmp_path / "log.jsonl")) == 2


def test_the_log_never_repeats_a_step(tmp_path):
    log = Log(tmp_path / "log.jsonl", 0, 6)
    for step in range(1, 6):
        log.write({"step": step})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # a line a kill cut short
    log.file.close()
    log = Log(tmp_path / "log.jsonl", 3, 6)
    log.write({"step": 4})
    log.file.close()
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2, 3, 4]


def test_going_on_does_not_write_into_the_log_that_was_pulled(tmp_path):
    folder, cached = tmp_path / "a", tmp_path / "object"
    run(folder, 3)
    cached.hardlink_to(folder / "log.jsonl")  # as DVC leaves it with cache.type hardlink
    before = cached.read_text()
    run(folder, 6)
    assert cached.read_text() == before
    assert [r["step"] for r in read_log(folder / "log.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_a_line_cut_short_does_not_hide_the_rest_of_a_log(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo\n{"step": 3, "loss": 1.0}\n')
    assert [r["step"] for r in read_log(tmp_path / "log.jsonl")] == [1, 3]
