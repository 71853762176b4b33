"""A file that cannot be read gets one clear line."""

from pathlib import Path

import pytest
from mistakes import names, one_line

from reals.experiment.load import load
from reals.experiment.reading import ConfigError

MISTAKES = [
    # file, old text, new text, what the line must say
    ("config/scales/demo.yaml", "name: demo", "name: [demo", "demo.yaml line"),
    ("config/scales/demo.yaml", "features: cached", "features: cached\nfeatures: online", "key 'features' stands there twice"),
    ("config/scales/demo.yaml", "latent: {channels: 4,", "latent: {channels: 4, channels: 8,", "key 'channels' stands there twice"),
    ("config/runs.tsv", "dit-b2-reals\tDiT-B/2\treals\tno\t400K", "dit-b2-reals DiT-B/2 reals no 400K", "cells"),
    ("config/paper.yaml", "lambda_1: 0.9", "lambda1: 0.9", "lambda1"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "says"), MISTAKES, ids=names(MISTAKES))
def test_a_mistake_gets_one_line(file, old, new, says, project):
    assert says in one_line(file, old, new)


def test_a_file_that_is_not_utf8_gets_one_line(project):
    path = Path("config/runs.tsv")
    path.write_bytes(path.read_bytes() + "# é\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"config/runs.tsv line \d+: not UTF-8 text"):
        load("demo")
