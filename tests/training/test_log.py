"""A run's log has each step once, survives a kill, and tensorboard and wandb are shown the same numbers."""

import importlib.util
import json
import sys
import types

import pytest
from lines import Line, run

from reals.experiment.engine import EngineConfig
from reals.training import loop
from reals.training.batches import Ahead
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


class StandIn(types.ModuleType):
    """As much of the package wandb as is called, and what it was told."""

    def __init__(self, logged_in=False):
        super().__init__("wandb")
        self.logged_in, self.runs, self.written, self.broken = logged_in, [], {}, ()

    def Settings(self, **settings):
        return settings

    def login(self, prompt):
        assert prompt is False  # never a question in the middle of a job
        if self.logged_in is None:
            raise OSError("no network")
        return self.logged_in

    def init(self, **settings):
        self.fail("init")
        self.runs.append(settings)
        return self

    def log(self, record, step):
        self.fail(f"log {step}")
        self.written[step] = record

    def finish(self):
        self.fail("finish")
        self.written["closed"] = True

    def fail(self, call):
        if call in self.broken:
            raise RuntimeError(f"{call} is broken")


@pytest.fixture
def wandb(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    package = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", package)
    return package


WITH_WANDB = EngineConfig(log_every=1, wandb="mine")


def test_a_resumed_training_goes_on_in_the_wandb_run_of_its_artefact(tmp_path, wandb):
    folder = tmp_path / "sit-b2-0123456789"
    for steps in (3, 6):
        loop.train(Line(), folder, steps, label="line", engine=WITH_WANDB)
        assert wandb.written.pop("closed")
    first, second = wandb.runs
    assert first == second
    assert first["id"] == "sit-b2-0123456789" and first["resume"] == "allow" and first["project"] == "mine"
    assert wandb.written == {record["step"]: record for record in read_log(folder / "log.jsonl")}


@pytest.mark.parametrize(("logged_in", "mode"), [(True, "online"), (False, "offline"), (None, "offline")])
def test_wandb_is_online_only_for_who_is_logged_in_and_reaches_it(tmp_path, wandb, logged_in, mode):
    wandb.logged_in = logged_in
    loop.train(Line(), tmp_path, 1, label="line", engine=EngineConfig(wandb=True))
    assert wandb.runs[0]["mode"] == mode and wandb.runs[0]["project"] == "reals"


def test_the_users_own_wandb_mode_is_left_alone(tmp_path, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    loop.train(Line(), tmp_path, 1, label="line", engine=WITH_WANDB)
    assert wandb.runs[0]["mode"] is None


@pytest.mark.parametrize(("call", "kept"), [("init", []), ("log 2", [1]), ("finish", [1, 2, 3])])
def test_a_failing_wandb_is_said_once_and_training_goes_on(tmp_path, wandb, capsys, call, kept):
    wandb.broken = (call,)
    loop.train(Line(), tmp_path, 3, label="line", engine=WITH_WANDB)
    assert capsys.readouterr().err.count(f"engine.wandb: RuntimeError: {call} is broken") == 1
    assert [step for step in wandb.written if step != "closed"] == kept
    assert [record["step"] for record in read_log(tmp_path / "log.jsonl")] == [1, 2, 3]


@pytest.mark.parametrize("package", ["wandb", "tensorboard"])
def test_a_package_that_does_not_fit_the_others_is_one_line_and_training_goes_on(tmp_path, monkeypatch, capsys, package):
    """As wandb before numpy 2 and tensorboard before protobuf 4."""
    name = {"tensorboard": "torch.utils.tensorboard"}.get(package, package)
    (tmp_path / "broken.py").write_text("raise TypeError('Descriptors cannot be created directly')")
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Elsewhere(name, tmp_path / "broken.py"), *sys.meta_path])
    loop.train(Line(), tmp_path / "run", 2, label="line", engine=EngineConfig.model_validate({package: True, "log_every": 1}))
    assert f"the package {package} cannot be imported (TypeError)" in capsys.readouterr().err
    assert len(read_log(tmp_path / "run" / "log.jsonl")) == 2


class Elsewhere:
    """Has one module come from this file."""

    def __init__(self, name, path):
        self.name, self.path = name, path

    def find_spec(self, name, path, target=None):
        return importlib.util.spec_from_file_location(name, self.path) if name == self.name else None


def test_without_wandb_one_line_says_so_and_training_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    loop.train(Line(), tmp_path, 2, label="line", engine=WITH_WANDB)
    assert "the package wandb is not installed; log.jsonl holds the same numbers" in capsys.readouterr().err
    assert len(read_log(tmp_path / "log.jsonl")) == 2


def test_a_record_says_how_long_its_steps_waited_for_data(tmp_path):
    class Waiting(Line):
        def __init__(self):
            super().__init__()
            self.batches = Ahead(lambda step: step)
            self.batches.waited = 1.0  # before the run began

        def update(self, step):
            self.batches.waited += step
            return super().update(step)

    loop.train(Waiting(), tmp_path, 5, label="line", engine=EngineConfig(log_every=2))
    assert [record["data_wait"] for record in read_log(tmp_path / "log.jsonl")] == [0.5, 2.5, 4.0]


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
