"""One edit of a shipped configuration file, and the one line it is refused with."""

from pathlib import Path

import pytest
from conftest import edit

from reals.experiment.load import load
from reals.experiment.reading import ConfigError


def one_line(file: str, old: str, new: str) -> str:
    """The message of loading the demo after the edit: always one line, never long."""
    load("imagenet256"), load("demo")
    edit(Path(file), old, new)
    with pytest.raises(ConfigError) as caught:
        load("demo")
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


def names(mistakes: list[tuple[str, str, str, str]]) -> list[str]:
    """Names of tests of (file, old text, new text, what the line must say)."""
    return [f"{file.rpartition('/')[2]}:{new[:24]}" for file, _, new, _ in mistakes]
