"""The report in a real browser: nothing missing, nothing from outside, usable on a phone, by keyboard, in the dark."""

import re

import browser
import numpy as np
import pytest
from table_parts import COMMON, SHEETS, result

from reals.experiment.metric_table import METRICS
from reals.experiment.report_sheets import TableRow, TableSheet
from reals.report import page
from reals.report.figures import image_grids
from reals.report.tables.build import build
from reals.report.tables.conditions import Conditions

pytestmark = [
    pytest.mark.process,
    pytest.mark.extra,
    pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)"),
]

EXTRACTOR = "photo-cnn"
VALUES = {"a": 30.0, "b": 9.5, "c": 100.25}


def measured(name, fid):
    repeats = [{"seed": k, "id": f"{name}-{k}", "values": {"fid": fid + k}} for k in range(3)]
    return {
        "kind": "evaluation", "name": name, "id": f"{name}-0123456789", "values": {"fid": fid, "is": 4.0}, "repeats": repeats,
        "protocol": {"feature extractor": EXTRACTOR, "samples": 10000}, "provenance": {"data": {"sha256": "ab" * 32}},
    }  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    rows = [TableRow(k, "Group", {"arm": f"Arm {k}"}, k, None, {"fid": None, "is": None}, None) for k in VALUES]
    rows.append(TableRow("later", "Not yet", {"arm": "Arm later"}, "later", None, {"fid": None, "is": None}, "a note"))
    sheet = TableSheet("arms", "A title", {"arm": "Arm"}, ("fid", "is"), "evaluation", False, tuple(rows))
    results = {("evaluation", name): measured(name, fid) for name, fid in VALUES.items()}
    conditions = Conditions(scale="cifar10", planned={"samples": "10,000", "a long name": "x" * 90}, extractor=EXTRACTOR)
    table = build(sheet, results, conditions)
    png = image_grids.samples(np.zeros((8, 4, 4, 3), np.uint8), folder / "figure3")[1]
    return page.write(
        folder / "report.html", conditions, description="Photographs.", code_version="1",
        tables=[table], pictures=[page.Picture("Figure 3", "Samples.", png)], results=results,
        commands={("evaluation", name): f"snakemake results/{name}/metrics.json --config scale=cifar10" for name in VALUES},
        overrides="scale=cifar10", times=[page.StageTime("train", 2, 90.0, 80.0)],
    )  # fmt: skip


@pytest.fixture(scope="module")
def tab(report, tmp_path_factory):
    with browser.page(tmp_path_factory.mktemp("profile")) as opened:
        opened.size(1280, 900)
        opened.open(report)
        yield opened


@pytest.fixture(scope="module")
def of_the_paper(tmp_path_factory):
    """The page of the paper's fourteen tables, every cell measured on another network than the published ones."""
    rows = {(sheet.source, row.source): sheet.metrics for sheet in SHEETS.values() for row in sheet.rows}
    values = dict.fromkeys(METRICS, 0.5) | dict.fromkeys(("fid", "sfid", "is", "rfid"), 123.45)
    results = {(kind, name): result(name, kind, **values) for kind, name in rows}
    return page.write(
        tmp_path_factory.mktemp("paper") / "report.html", COMMON, description="Digits.", code_version="1",
        tables=[build(sheet, results, COMMON) for sheet in SHEETS.values()], pictures=[], results=results, commands={},
        overrides="scale=demo", times=[],
    )  # fmt: skip


def arms(tab) -> list[str]:
    return tab.run("[...document.querySelectorAll('#arms tbody tr')].map(r => r.cells[0].textContent.replace(/\\d+$/, ''))")


def test_images_load_and_nothing_comes_from_outside(tab):
    assert tab.run("[...document.images].map(i => i.complete && i.naturalWidth > 0)") == [True]
    assert tab.complaints() == []


def test_a_head_sorts_both_ways_with_missing_cells_last_and_then_restores(tab):
    before = arms(tab)
    assert before == ["Group", "Arm a", "Arm b", "Arm c", "Not yet", "Arm later"]
    fid = "document.querySelector('#arms th[data-column=\"1\"]')"
    orders = []
    for _ in range(3):
        tab.run(f"{fid}.querySelector('button').click()")
        orders.append((tab.run(f"{fid}.getAttribute('aria-sort')"), arms(tab)))
    assert orders == [
        ("ascending", ["Arm b", "Arm a", "Arm c", "Arm later"]),
        ("descending", ["Arm c", "Arm a", "Arm b", "Arm later"]),
        (None, before),
    ]


def test_pointing_and_tabbing_show_the_protocol_and_the_link_leads_to_the_command(tab):
    tab.point_at("#arms td.measured a")
    seen = tab.run("document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent")
    assert re.search(r"seed 1: 31\n", seen)
    assert "lineage: reals why arms:a:fid --config scale=cifar10" in seen
    inside = "(r => r.left >= 0 && r.top >= 0 && r.right <= innerWidth && r.bottom <= innerHeight)"
    assert tab.run(f"{inside}(document.getElementById('tip').getBoundingClientRect())")
    tab.run("document.querySelectorAll('#arms td.measured a')[2].focus()")
    assert "reals why arms:b:fid" in tab.run("document.getElementById('tip').textContent")
    tab.run("document.activeElement.click()")
    tab.run("new Promise(done => setTimeout(done, 100))")
    opened = "document.querySelector(decodeURIComponent(location.hash))"
    assert tab.run(f"{opened}.open")
    assert "snakemake results/b/metrics.json --config scale=cifar10" in tab.run(f"{opened}.textContent")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark(tab, scheme):
    tab.colours(scheme)

    def luminance(colour: str) -> float:
        channels = [int(c) / 255 for c in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    ground = luminance(tab.run("getComputedStyle(document.body).backgroundColor"))
    assert (ground > 0.5) == (scheme == "light")
    for selector in ("p", ".soft", "td.measured a", "a", "#arms th"):
        text = luminance(tab.run(f"getComputedStyle(document.querySelector('{selector}')).color"))
        low, high = sorted((ground, text))
        assert (high + 0.05) / (low + 0.05) >= 4.5, selector


def test_a_phone_scrolls_tables_and_not_the_page(tab):
    tab.size(375, 740, phone=True)
    assert tab.run("document.documentElement.scrollWidth") <= 375
    assert tab.run("[...document.querySelectorAll('.wide')].every(w => w.getBoundingClientRect().right <= 375)")
    tab.size(1280, 900)


def test_a_screen_is_wide_enough_for_the_tables_of_the_paper_and_the_change_stands_beside_the_fid(of_the_paper, tab):
    def places(of: str) -> list:
        return tab.run(f"[...document.querySelectorAll('section')].map(section => ({of})(section))")

    tab.size(1300, 900)
    tab.open(of_the_paper)
    hidden = places("s => (w => w.scrollWidth - w.clientWidth)(s.querySelector('.wide'))")
    assert hidden == [0] * len(SHEETS)
    heads = places("s => [...s.querySelectorAll('th.over')].map(h => h.textContent)")
    compared = [k for k, sheet in enumerate(SHEETS.values()) if sheet.compare and sheet.metrics[0] == "fid"]
    assert compared and all(heads[k][:2] == ["FID ↓", "ΔFID (%)"] for k in compared)
    change = "s => s.querySelectorAll('th.over')[1].getBoundingClientRect().right"
    assert all(places(change)[k] < 0.6 * 1300 for k in compared)
    tab.size(1000, 900)  # the last columns are behind a scroll bar here, not the change
    assert all(places(change)[k] < 1000 for k in compared)
