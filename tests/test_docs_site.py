"""The pages as a site: every link and anchor leads somewhere, nothing is asked of a server, search works from a disk."""

import html
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import browser
import pytest
from conftest import REPOSITORY

pytestmark = pytest.mark.extra
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "config/README.md", "data/README.md", "results/README.md")
LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["'](?:https?:)?//|<link\b[^>]*\bhref=["'](?:https?:)?//|@import|url\(["']?https?:"""
)


def build(pages: Path, site: Path, *, check: bool = True) -> str:
    """What was said of it."""
    for package in ("sphinx", "furo", "myst_parser", "mermaidx"):
        pytest.importorskip(package, reason="`make docs` installs what builds the site")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-b",
        "html",
        "-c",
        str(pages / "docs/site"),
        "-d",
        f"{site}-read",
    ]
    done = subprocess.run(
        [*command, str(pages), str(site)], capture_output=True, text=True, env=os.environ | {"PYTHONWARNINGS": ""}
    )
    assert (done.returncode == 0) == check, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    """The repository's pages alone, with a report of the demo."""
    folder = tmp_path_factory.mktemp("pages")
    for name in PAGES:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / name)
    shutil.copytree(REPOSITORY / "docs", folder / "docs")
    for figures in REPOSITORY.glob("results/published/*/figures"):  # pages show what is published
        shutil.copytree(figures, folder / figures.relative_to(REPOSITORY))
    (folder / "results/demo").mkdir()
    (folder / "results/demo/report.html").write_text("<h1>the report</h1>")
    return folder


@pytest.fixture(scope="module")
def site(pages, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "site"
    build(pages, folder)
    return folder


def test_every_page_is_there_and_every_link_in_it_leads_somewhere(site):
    read = {path: path.read_text() for path in site.rglob("*.html")}
    for page in (*PAGES, *(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md"))):
        assert site / page.replace(".md", ".html") in read
    ids = {path: {"", *map(html.unescape, re.findall(r'\bid="([^"]+)"', text))} for path, text in read.items()}
    for path, text in read.items():
        for link in map(html.unescape, re.findall(r'\bhref="([^"]*)"', text)):
            if re.match(r"\w+:", link):
                continue
            file, _, anchor = unquote(link).partition("#")
            target = (path.parent / file.partition("?")[0]).resolve() if file else path
            assert target.exists(), f"{path.name}: {link}"
            assert target not in ids or anchor in ids[target], f"{path.name}: {link}"


def test_no_page_loads_anything_from_a_server(site):
    for path in site.rglob("*"):
        if path.suffix in (".html", ".css", ".svg"):
            assert not (found := LOADED.search(path.read_text())), f"{path.name}: {found[0]}"


def test_diagrams_are_pictures_and_the_report_is_inside(site):
    text = (site / "docs/architecture.html").read_text()
    diagrams = re.findall(r"<figure[^>]*>(<svg.*?</svg>)</figure>", text, re.DOTALL)
    assert len(diagrams) == 2 and "records" in diagrams[0] and "teacher" in diagrams[1] and "subgraph" not in text
    assert (site / "report.html").read_text() == "<h1>the report</h1>" and 'href="report.html"' in (
        site / "README.html"
    ).read_text()


@pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium")
def test_a_browser_reads_and_searches_it_from_a_disk(site, tmp_path):
    with browser.page(tmp_path) as page:
        page.open(site / "docs/architecture.html")
        page.open(site / "search.html")
        page.run("document.querySelector('input[name=q]').value = 'guidance'; Search.performSearch('guidance')")
        found = "new Promise(r => { const t = setInterval(() => { if (document.querySelector('#search-results li')) { clearInterval(t); r(1) } }, 50) })"
        assert page.run(found) == 1
        assert page.complaints() == []


def test_a_link_or_an_anchor_that_leads_nowhere_stops_the_build(pages, tmp_path):
    shutil.copytree(pages, tmp_path / "pages")
    (tmp_path / "pages/results/demo/report.html").unlink()
    with (tmp_path / "pages/README.md").open("a") as readme:
        readme.write("\n[a](docs/nowhere.md) [b](docs/planning.md#nowhere)\n")
    said = build(tmp_path / "pages", tmp_path / "site", check=False)
    assert "docs/nowhere.md" in said and "nowhere" in said.replace("docs/nowhere.md", "")
    assert (
        "not in this copy of the site" in (tmp_path / "site/README.html").read_text()
        and not (tmp_path / "site/report.html").exists()
    )
