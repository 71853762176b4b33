"""The page while a run goes on: when it is drawn, what it says of itself, and that it is in nobody's way."""

import json
import re
import threading
import time

import pytest

from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.report import assembly, early

WORK = early.Work(running=["SiT-B/2 on ReaLS, early"], waiting=["samples of <b>", "evaluation of SiT-B/2 on ReaLS"])


@pytest.fixture
def registry(project):
    return Registry(load("smoke"))


def measure(registry, name, **values):
    """As if this evaluation had been made."""
    artefact = registry.evaluations[name]
    path = registry.folder(artefact) / "metrics.json"
    path.parent.mkdir(parents=True)
    protocol = {"feature extractor": registry.experiment.scale.evaluation.extractor.name}
    result = {"kind": "evaluation", "name": name, "id": artefact.id, "values": values, "protocol": protocol, "provenance": {}}
    path.write_text(json.dumps(result))


def of_table_5(registry):
    return [row.source for row in registry.experiment.tables["table05"].rows]


class Clock:
    def __init__(self):
        self.at = 1000.0

    def __call__(self):
        return self.at


@pytest.mark.slow
def test_a_page_comes_with_the_first_number_and_then_as_seldom_as_its_cost_asks(registry):
    clock = Clock()
    pages = early.Pages(registry, lambda: WORK, clock)
    first, *_ = of_table_5(registry)
    assert not pages.due(pages.measured())
    clock.at += early.STALE  # nothing is measured, but the reader sees what runs
    assert pages.due(pages.measured())
    clock.at -= early.STALE - 1
    measure(registry, first, fid=12.5)
    assert pages.due(pages.measured())
    pages.draw()
    assert not pages.due(pages.measured() + 1)
    clock.at += early.PAUSE
    pages.took = 0.01
    assert pages.due(pages.measured() + 1) and not pages.due(pages.measured())
    pages.took = 1.0
    assert not pages.due(pages.measured() + 1)
    clock.at += 1.0 / early.SHARE
    assert pages.due(pages.measured() + 1)
    pages.took = 0.01
    clock.at = 1000.0 + 100 * early.STALE
    pages.last = clock.at - early.STALE
    assert not pages.due(pages.measured())  # a long run is looked at seldom
    assert not pages.due(len(pages.metrics))  # left to the rule


def test_the_page_says_how_far_the_run_is_loads_itself_anew_and_is_older_than_everything(registry):
    first, *_ = of_table_5(registry)
    measure(registry, first, fid=12.5)
    pages = early.Pages(registry, lambda: WORK)
    pages.draw()
    page = registry.root / "report.html"
    text = page.read_text()
    of = len(pages.metrics)
    assert f"(1/{of})" in re.search("<title>(.*)</title>", text)[1]
    assert f"Unfinished: 1 of {of} results measured at {time.strftime('%Y-%m-%d')}" in text
    assert "Running: SiT-B/2 on ReaLS, early." in text and "2 jobs still to be done" in text
    assert "samples of &lt;b&gt;" in text and "12.50" in text
    assert '<meta http-equiv="refresh"' in text
    assert page.stat().st_mtime < (registry.experiment.folder / "tables.yaml").stat().st_mtime
    assert re.search(rf"drawn, 1 of {of} results measured; \d+\.\d\d CPU-seconds\n$", pages.log.read_text())
    pages.end()
    text = page.read_text()
    assert "The run has ended; the same command goes on from here." in text
    assert "refresh" not in text and "Running:" not in text


def test_a_fault_is_told_in_the_log_alone_and_the_page_stays(registry, monkeypatch):
    first, second, *_ = of_table_5(registry)
    measure(registry, first, fid=12.5)
    pages = early.Pages(registry, lambda: WORK)
    pages.draw()
    before = (registry.root / "report.html").read_bytes()
    measure(registry, second, fid=float("nan"))
    pages.draw()
    assert "fid is nan, expected a finite number" in pages.log.read_text()
    pages.work = {}.popitem
    pages.draw()
    assert "KeyError" in pages.log.read_text()
    assert (registry.root / "report.html").read_bytes() == before
    assert not list(registry.root.glob("**/*.partial"))


def test_what_was_measured_while_it_was_drawn_leaves_the_page_to_the_rule(registry, monkeypatch):
    first, *_ = of_table_5(registry)
    measure(registry, first, fid=12.5)
    pages = early.Pages(registry, lambda: WORK)
    write = assembly.write_page

    def last_number(*arguments, **named):
        write(*arguments, **named)
        monkeypatch.setattr(pages, "metrics", pages.metrics[:1])
        monkeypatch.setattr(pages, "measured", lambda: 1)

    monkeypatch.setattr(assembly, "write_page", last_number)
    pages.draw()
    assert not (registry.root / "report.html").exists() and not list(registry.root.glob("**/*.html"))
    assert "left to the rule report" in pages.log.read_text()
    pages.end()
    assert not (registry.root / "report.html").exists()


def test_one_thread_draws_beside_the_work_and_its_end_is_not_waited_for_long(registry, monkeypatch):
    monkeypatch.setattr(early, "LOOK", 0.01)
    monkeypatch.setattr(early, "LAST", 0.1)
    first, *_ = of_table_5(registry)
    drawn, hold = [], threading.Event()

    def draw(self, *, going=True):
        drawn.append(threading.current_thread().name)
        hold.wait(20)

    monkeypatch.setattr(early.Pages, "draw", draw)
    with early.redrawn(registry, lambda: WORK):
        measure(registry, first, fid=12.5)
        until = time.monotonic() + 20
        while not drawn and time.monotonic() < until:
            time.sleep(0.01)
        began = time.monotonic()
    assert drawn == ["early page"] and time.monotonic() - began < 10
    hold.set()


def test_nothing_is_drawn_where_a_run_measures_nothing(registry):
    with early.redrawn(registry, lambda: WORK):
        pass
    assert not registry.root.exists()
