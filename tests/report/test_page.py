import re
from html.parser import HTMLParser

import numpy as np
import pytest

from reals.experiment.report_sheets import TableRow, TableSheet
from reals.report import page
from reals.report.figures import image_grids
from reals.report.tables.build import build
from reals.report.tables.conditions import Conditions

HASH = "0123456789abcdef" * 4
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Reader(HTMLParser):
    """Checks that tags nest and collects ids, links, sources and tags."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.sources, self.tags, self.text = [], [], [], [], set(), []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.add(tag)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs["href"]] if "href" in attrs else []
        self.sources += [attrs["src"]] if "src" in attrs else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    rows = (
        TableRow("a", "Group", {"model": "SiT & <b>"}, "run-a", None, {"fid": "40.0"}, "a note"),
        TableRow("b", "Group", {"model": "SiT-B/2"}, "run-b", "a", {"fid": "30.0"}, None),
        TableRow("c", "Other", {"model": "DiffiT*"}, "literature", None, {"fid": "1.73"}, None),
    )
    sheet = TableSheet("table03", "A title.", {"model": "Model"}, ("fid",), "evaluation", True, rows)
    conditions = Conditions(scale="demo", planned={"samples": "1000"}, extractor="digits-cnn")
    results = {
        ("evaluation", "run-a"): {
            "kind": "evaluation", "name": "run-a", "id": "run-a-1234", "values": {"fid": 12.3456789},
            "protocol": {"samples": 1000, "feature extractor": "digits-cnn"},
            "provenance": {"checkpoint": {"step": 400, "sha256": HASH}, "libraries": ["torch 2", "timm 1"]},
        },
        ("evaluation", "run-b"): None,
        ("autoencoder", "reals"): {
            "kind": "autoencoder", "name": "reals", "id": "reals-9", "values": {"knn": 0.91, "psnr": 23.4},
            "protocol": {}, "provenance": {},
        },
    }  # fmt: skip
    table = build(sheet, results, conditions)
    png = image_grids.samples(np.zeros((2, 4, 4, 3), np.uint8), folder / "figure3", columns=2)[1]
    path = page.write(
        folder / "report.html",
        conditions,
        description="Digits.",
        code_version=f"0.1.0 ({HASH})",
        tables=[table],
        pictures=[page.Picture("Figure 3", "Samples.", png), page.Picture("Figure 4", "Masks.", None)],
        results=results,
        commands={("evaluation", "run-a"): "snakemake results/run-a/metrics.json --config scale=demo"},
        overrides="scale=demo",
        times=[page.StageTime("train", 2, 90.0, 80.0), page.StageTime("sample", 1, 30.0, 30.0)],
    )
    reader = Reader()
    text = path.read_text()
    reader.feed(text)
    assert reader.open == []
    return text, reader


def test_page_stands_alone(report):
    text, reader = report
    assert not re.search(r"<script[^>]", text)
    assert "link" not in reader.tags
    assert all(source.startswith("data:image/png;base64,") for source in reader.sources)
    assert reader.sources
    assert not re.search(r"url\(|@import|https?://", text)
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text


def test_links_lead_to_unique_places(report):
    _, reader = report
    assert len(set(reader.ids)) == len(reader.ids)
    assert {link.removeprefix("#") for link in reader.links} <= set(reader.ids)
    assert "evaluation-run-a" in reader.ids
    assert "#evaluation-run-a" in reader.links


def test_page_shows_numbers_marks_and_origin(report):
    text, reader = report
    words = " ".join(" ".join(reader.text).split())
    assert "12.35" in words
    assert "40.0" in words
    assert "−25.0" in words
    assert "Measured at demo scale" in words
    assert "SiT &amp; &lt;b&gt;" in text
    assert "value: 12.345679" in text
    assert "id: run-a-1234" in text
    assert "checkpoint › step 400" in words
    assert "libraries torch 2, timm 1" in words
    assert "evaluation run-b (Table 3)" in words
    assert "inputs of Figure 4 (Figure 4)" in words
    assert "k-NN accuracy" in words
    assert "0.910" in words
    assert "silhouette" not in words
    assert "lineage: reals why table03:a:fid --config scale=demo" in text
    assert "snakemake results/run-a/metrics.json --config scale=demo" in words
    assert "75.0 %" in words
    assert "1 min 30 s" in words
    assert "2 min 00 s" in words


def test_long_digests_are_short_with_the_whole_on_hover(report):
    text, _ = report
    assert f'<abbr title="{HASH}">0123456789…</abbr>' in text
    assert page.short("<b> deadbeef") == "&lt;b&gt; deadbeef"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.25, "4.2 s"), (59.94, "59.9 s"), (187, "3 min 07 s"), (7500, "2 h 05 min"), (3599.7, "1 h 00 min")],
)
def test_duration(seconds, text):
    assert page.duration(seconds) == text


def test_flatten():
    assert page.flatten({"data": {"sha_256": "ab", "n": 3}, "tags": ["x", 1]}) == {
        "data › sha 256": "ab", "data › n": "3", "tags": "x, 1",
    }  # fmt: skip
