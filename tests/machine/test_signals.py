"""One table of exit codes."""

import re

from conftest import REPOSITORY

from reals.machine import signals


def test_the_docs_list_all_exit_codes():
    codes = {value for name, value in vars(signals).items() if name.startswith("EXIT_")}
    text = (REPOSITORY / "docs/training.md").read_text()
    table = text[text.index("## Exit codes") :].split("\n## ")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == codes
