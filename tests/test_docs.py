"""What the documents name is there: files, links between pages, modules and functions."""

import importlib
import re
from pathlib import Path

import pytest
from conftest import REPOSITORY

PAGES = [
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "config/README.md", "data/README.md")),
]
OLD = re.compile(r"`reals\.[a-z_.]+` is")  # the changelog tells what was called otherwise
NAME = re.compile(r"\breals(?:\.[A-Za-z_]\w*)+")
FILE = re.compile(r"(?<![\w/.-])(?:src|tests|workflow|config|benchmarks|docs)/[\w/.-]+\.(?:py|smk|md|yaml|tsv|json|sh|png)\b")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
MADE = {"docs/images"}


def resolves(dotted: str) -> bool:
    """Whether a dotted name is a module of the package or something in one."""
    parts = dotted.split(".")
    for k in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:k]))
        except ModuleNotFoundError:
            continue
        for name in parts[k:]:
            if not hasattr(found, name):
                return False
            found = getattr(found, name)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_what_a_page_names_is_there(page: Path):
    text = "\n".join(line for line in page.read_text().splitlines() if not OLD.search(line))
    names = {name for name in NAME.findall(text) if not name.endswith((".md", ".yaml"))}
    assert [name for name in sorted(names) if not resolves(name)] == []
    assert [name for name in sorted(set(FILE.findall(text))) if not (REPOSITORY / name).exists()] == []
    assert [link for link in LINK.findall(text) if not (page.parent / link).exists()] == []
