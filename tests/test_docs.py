"""What the documents name is there: files, links between pages, modules and functions."""

import importlib
import re
import shlex
from itertools import takewhile
from pathlib import Path

import pytest
from conftest import REPOSITORY

from reals.cli.experiment import one_each
from reals.cli.main import parser

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


def commands(page: Path) -> list[list[str]]:
    """The arguments of each `reals` command in a page's shell examples; a trailing comment and what is piped on are left out."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    typed = [re.sub(r"\[[^]]*\]", "", line).strip() for line in lines]  # what is optional, as [--to sit]
    found = [
        shlex.split(re.sub(r"^(?:srun \S+ )?(?:\.venv/bin/)?", "", line), comments=True)
        for line in typed
        if " reals " in f" {line}"
    ]
    return [list(takewhile(lambda word: word not in ("|", "&&"), command[1:])) for command in found if command[:1] == ["reals"]]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_commands_of_a_page_are_such_as_the_command_line_takes(page: Path):
    for command in commands(page):
        try:
            parser().parse_args(one_each(command))
        except SystemExit:
            pytest.fail(f"{page.name}: reals {' '.join(command)}")


def test_the_pages_do_hold_commands():
    assert sum(len(commands(page)) for page in PAGES) > 20
