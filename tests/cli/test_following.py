"""What is said of a run's jobs, from Snakemake's records, their logs and the book of starts."""

import io
import json
import logging
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from reals.cli import live
from reals.cli.following import Following, Item, spoken
from reals.planning.time_left import Expected
from reals.progress import Progress


class Clock:
    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


def record(event: str | None, message: str = "", **facts) -> logging.LogRecord:
    made = logging.makeLogRecord({"msg": message, "levelno": logging.INFO})
    made.__dict__ |= {"event": SimpleNamespace(value=event), **facts} if event else facts
    return made


def item(name: str, log: Path | None = None, number: str = "400", needs=(), **facts) -> Item:
    command = ("stage", "transformer", name, number)
    return Item(name, command, log, Expected("transformer", "a kind", 10.0, frozenset(needs)), **facts)


def following(items, **facts) -> tuple[Following, list[str], Clock]:
    said, clock = [], Clock()
    return Following(items, said.append, now=clock, **facts), said, clock


def test_a_finished_job_is_one_line_with_its_name_its_time_and_the_time_left():
    run, said, clock = following({1: item("SiT-B/2 on ReaLS, 400K"), 2: item("DiT-B/2 on ReaLS, 400K", needs=[1])})
    run.handle(record("job_started", jobs=[1, 99]))  # 99: the rule that only asks for others
    assert run.summary() == "0 of 2 jobs done, 1 running"
    clock.seconds += 125
    run.handle(record("job_finished", job_id=1))
    run.handle(record("job_started", jobs=[2]))
    clock.seconds += 125
    run.handle(record("job_finished", job_id=2))
    run.handle(record("job_finished", job_id=99))
    assert said == ["[1/2] SiT-B/2 on ReaLS, 400K: 2:05, about 2 min left", "[2/2] DiT-B/2 on ReaLS, 400K: 2:05"]


def test_a_running_job_is_one_line_with_its_own_progress(tmp_path):
    log = tmp_path / "x.log"
    run, _, clock = following({1: item("SiT-B/2 on ReaLS, 400K", log), 2: item("another", tmp_path / "none.log")})
    clock.seconds = log.parent.stat().st_mtime - 1
    run.handle(record("job_started", jobs=[1, 2]))
    stream, steps = io.StringIO(), Clock()
    progress = Progress("sit-b2-reals", 400, stream=stream, now=steps)
    for done in (10, 20, 30, 40):
        steps.seconds += 20
        progress.update(done, loss=0.8125)
    log.write_text(stream.getvalue() + "a warning of a library\n")
    clock.seconds = log.stat().st_mtime + 30
    run.look()
    first, second = run.lines()
    assert first.startswith("SiT-B/2 on ReaLS, 400K  0:3") and first.endswith("40/400  loss 0.8125  0.5/s  11:30 left")
    assert second.startswith("another  0:3")
    assert run.left() == pytest.approx(12 * 60, rel=0.1)  # the other is taken to be like it


def test_the_log_of_an_earlier_try_says_nothing(tmp_path):
    log = tmp_path / "x.log"
    log.write_text("sit-b2-reals: 200/400  loss 0.5  10/s  ETA 0:20\n")
    run, _, clock = following({1: item("x", log)})
    clock.seconds = log.stat().st_mtime + 60
    run.handle(record("job_started", jobs=[1]))
    run.look()
    assert list(run.lines()) == ["x  0:00"]


def test_a_failed_job_is_counted_until_it_is_tried_again():
    run, said, _ = following({1: item("x"), 2: item("y", needs=[1]), 3: item("z")})
    run.handle(record("job_started", jobs=[1, 3]))
    run.handle(record("job_error", jobid=1))
    assert run.summary() == "0 of 3 jobs done, 1 running, 1 failed"
    run.handle(record(None, "Trying to restart job 1."))
    assert said == ["to be tried again: x"] and run.summary() == "0 of 3 jobs done, 1 running"
    run.handle(record("job_started", jobs=[1]))
    run.handle(record("job_finished", job_id=1))
    assert run.count("done") == 1 and run.count("failed") == 0


def test_on_a_cluster_a_job_is_queued_then_running_then_done(tmp_path):
    book = tmp_path / "slurm.jsonl"
    run, said, clock = following({1: item("x", local=False), 2: item("y", local=False), 3: item("tables")}, book=book)
    run.handle(record("job_started", jobs=[1, 2, 3]))
    run.handle(record(None, "Job 1 has been submitted with SLURM jobid 77 (log: somewhere)."))
    assert run.summary() == "0 of 3 jobs done, 1 running, 2 queued"
    assert list(run.lines())[-1] == "queued: x; y"

    def begins(name: str, at: float) -> None:
        command = ["stage", "transformer", name, "400", "--config", "scale=smoke"]
        with book.open("a") as file:
            file.write(json.dumps({"began": at, "job": "77", "node": "n3", "command": command}) + "\n")

    begins("y", clock.seconds - 500)  # of an earlier run
    begins("x", clock.seconds + 30)
    clock.seconds += 60
    run.look()
    run.look()
    assert run.count("running") == 2 and run.count("queued") == 1
    begins("x", clock.seconds)  # requeued by SLURM itself
    clock.seconds += 60
    run.handle(record("job_finished", job_id=1))
    assert said[0] == "queued: x (SLURM job 77)"
    assert said[1:3] == ["running: x on n3", "running again: x on n3"]
    assert said[3].startswith("[1/3] x: 1:00, about ")


def test_a_fault_is_told_of_once_and_stops_nothing():
    run, said, _ = following({1: item("x")})
    run.handle(record("job_started", jobs=None))
    run.handle(record("job_finished", job_id=1))
    assert len(said) == 1 and said[0].startswith("reals: progress is no longer shown (TypeError: ")
    assert live.NotOurs(run).filter(record("job_finished", job_id=1)), "Snakemake's own lines are back"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (40, "40 s"), (89, "89 s"), (100, "2 min"), (5000, "83 min"), (18_720, "5.2 h"), (2.7e5, "3.1 days")],
)
def test_a_time_in_words(seconds, words):
    assert spoken(seconds) == words


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_live_lines_are_drawn_in_place_below_what_is_printed(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "5")
    stream = Terminal()
    screen = live.Screen(stream)
    screen.draw([f"job {n} with a long name" for n in range(5)], "5 running")
    assert stream.getvalue().splitlines() == ["job 0 with a long n", "job 1 with a long n", "and 3 more", "5 running"]
    live.Above(stream, screen).write("a warning\n")
    screen.draw([], "0 running")
    assert stream.getvalue().endswith("5 running\n\033[4F\033[Ja warning\n0 running\n")


def handled(monkeypatch, stream) -> tuple[logging.Logger, logging.StreamHandler]:
    monkeypatch.setattr(sys, "stderr", stream)
    logger = logging.Logger("one like snakemake's")
    own = logging.StreamHandler(stream)
    own.name = "DefaultStreamHandler"
    logger.addHandler(own)
    return logger, own


def test_snakemakes_own_lines_give_way_and_come_back(monkeypatch):
    stream = io.StringIO()
    logger, own = handled(monkeypatch, stream)
    with live.shown(lambda tell: Following({1: item("x")}, tell), logger):
        logger.handle(record(None, "Select jobs to execute..."))
        logger.handle(record("job_started", "Execute 1 jobs...", jobs=[1]))
        logger.handle(record(None, "a warning"))
        logger.handle(record("job_finished", "Finished jobid: 1 (Rule: y)", job_id=1))
        logger.handle(record("progress", "1 of 1 steps"))
    assert stream.getvalue().splitlines() == ["a warning", "[1/1] x: 0:00"]
    assert logger.handlers == [own] and not own.filters and sys.stderr is stream


def test_a_terminal_shows_running_jobs_and_nothing_of_it_stays(monkeypatch):
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(live, "LIVE_SECONDS", 0.01)
    logger, own = handled(monkeypatch, stream)
    drawn, draw = threading.Event(), live.Screen.draw

    def seen(self, lines, last):
        draw(self, lines, last)
        if lines:
            drawn.set()

    monkeypatch.setattr(live.Screen, "draw", seen)
    with live.shown(lambda tell: Following({1: item("SiT-B/2 on ReaLS, 400K")}, tell), logger):
        logger.handle(record("job_started", "Execute 1 jobs...", jobs=[1]))
        assert drawn.wait(30)
        logger.handle(record(None, "a warning"))
        print("reals: x failed: no room", file=sys.stderr)
    text = stream.getvalue()
    assert "SiT-B/2 on ReaLS, 400K  0:00\n0 of 1 jobs done, 1 running\n" in text
    assert "\033[Ja warning\n" in text and "reals: x failed: no room\n" in text
    assert text.endswith("\033[J") or text.endswith("no room\n")
    assert own.stream is stream and sys.stderr is stream


def test_a_job_is_on_the_terminal_as_soon_as_it_starts(monkeypatch):
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(live, "LIVE_SECONDS", 60.0)
    logger, own = handled(monkeypatch, stream)
    with live.shown(lambda tell: Following({1: item("x")}, tell), logger):
        logger.handle(record("job_started", "Execute 1 jobs...", jobs=[1]))
        assert stream.getvalue() == "x  0:00\n0 of 1 jobs done, 1 running\n"
        logger.handle(record("job_finished", "Finished jobid: 1 (Rule: y)", job_id=1))
    assert logger.handlers == [own]


def test_a_minute_of_silence_ends_with_what_goes_on(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(live, "QUIET_SECONDS", 0.02)
    logger, _ = handled(monkeypatch, stream)
    told, tell = threading.Event(), Following.summary
    monkeypatch.setattr(Following, "summary", lambda self: (told.set(), tell(self))[1])
    with live.shown(lambda tell: Following({1: item("x")}, tell), logger):
        logger.handle(record("job_started", "Execute 1 jobs...", jobs=[1]))
        assert told.wait(30)
    assert stream.getvalue().startswith("0 of 1 jobs done, 1 running; x  0:00\n")


def test_where_another_plugin_writes_nothing_is_added(monkeypatch):
    stream = io.StringIO()
    logger, own = handled(monkeypatch, stream)
    own.name = "a plugin's"
    with live.shown(lambda tell: pytest.fail("asked for"), logger):
        assert logger.handlers == [own]


@pytest.mark.parametrize(("term", "is_live"), [("xterm", True), ("dumb", False)])
def test_a_dumb_terminal_gets_plain_lines(monkeypatch, term, is_live):
    monkeypatch.setenv("TERM", term)
    assert live.live(Terminal()) == is_live
    assert not live.live(io.StringIO())
