"""A file that cannot be read gets one clear line."""

from pathlib import Path

import pytest
from mistakes import names, one_line
from pydantic import Field

from reals.experiment.load import load
from reals.experiment.reading import ConfigError, Strict, read_sheet, read_yaml, validate

MISTAKES = [
    # file, old text, new text, what the line must say
    ("config/scales/demo.yaml", "name: demo", "name: [demo", "demo.yaml line"),
    ("config/scales/demo.yaml", "features: cached", "features: cached\nfeatures: online", "key 'features' stands there twice"),
    ("config/scales/demo.yaml", "latent: {channels: 4,", "latent: {channels: 4, channels: 8,", "key 'channels' stands there twice"),
    ("config/autoencoders.tsv", "align\tequivariance\tnote", "align\tnote\tnote", "autoencoders.tsv line 5: column 'note' stands there twice; delete one"),
    ("config/runs.tsv", "dit-b2-reals\tDiT-B/2\treals\tno\t400K", "dit-b2-reals DiT-B/2 reals no 400K", "cells"),
    ("config/paper.yaml", "lambda_1: 0.9", "lambda1: 0.9", "lambda1"),
    ("config/scales/demo.yaml", "large: {kind: trained", "large: {kind: traind", "demo.yaml: teachers.large.kind: 'traind' is not defined; did you mean 'trained'?"),
    ("config/scales/demo.yaml", "large: {kind: trained,", "large: {kind: trained, widht: 8,", "teachers.large.trained.widht: unknown key; did you mean 'width'?"),
    ("config/scales/demo.yaml", "held_out:", "heldout:", "data.heldout: unknown key; did you mean 'held_out'?"),
    ("config/scales/demo.yaml", "features: cached", "features: cached\nengin: {}", "demo.yaml: engin: unknown key; did you mean 'engine'?"),
    ("config/scales/demo.yaml", "features: cached", "features: cached\nqqq: 1", "demo.yaml: qqq: unknown key"),
    ("config/scales/demo.yaml", "name: demo", "name: 2024_01", "demo.yaml: name: expected text (YAML reads 202401); put what you mean in quotes"),
    ("config/scales/demo.yaml", "400K: 400,", "400K: many,", "milestones.400K: expected a whole number (got 'many')"),
    ("config/scales/demo.yaml", "400K: 400,", "400K: yes,", "milestones.400K: expected a whole number (got 'yes')"),
    ("config/scales/demo.yaml", "held_out: 0.2", "held_out: 1:30.5", "demo.yaml line 10: not valid YAML (1:30.5 would be read as 90.5; write that"),
    ("config/scales/demo.yaml", "400K: 400,", "400K: 0.5,", "milestones.400K: expected a whole number (got 0.5)"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "says"), MISTAKES, ids=names(MISTAKES))
def test_a_mistake_gets_one_line(file, old, new, says, project):
    assert says in one_line(file, old, new)


def test_a_file_that_is_not_utf8_gets_one_line(project):
    path = Path("config/runs.tsv")
    path.write_bytes(path.read_bytes() + "# é\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"config/runs.tsv line \d+: not UTF-8 text"):
        load("demo")


def test_a_switch_is_no_number_but_a_number_may_be_a_switch(tmp_path):
    class Settings(Strict):
        steps: int = 1
        rates: dict[str, tuple[float, ...]] = Field(default={})
        on: bool = False
        either: bool | int = 0

    for values in ({"steps": True}, {"rates": {"a": (0.5, False)}}):
        with pytest.raises(ConfigError, match=r"(expected a whole number|unable to parse string as a number) \(got '(yes|no)'\)"):
            validate(Settings, values, "here")
    assert validate(Settings, {"on": True, "either": True}, "here").either is True


def test_text_in_another_encoding_of_16_bits_gets_one_line(tmp_path):
    for encoding in ("utf-16", "utf-16-le"):
        (tmp_path / "a.yaml").write_text("name: a\n", encoding=encoding)
        with pytest.raises(ConfigError, match=r"^[^\n]*a\.yaml[^\n]*\Z"):
            read_yaml(tmp_path / "a.yaml")


def test_the_mark_that_windows_puts_before_a_text_is_no_part_of_it(tmp_path):
    sheet, scale = tmp_path / "a.tsv", tmp_path / "a.yaml"
    sheet.write_text("name\tvalue\na\t1\n", encoding="utf-8-sig")
    scale.write_text("name: a\n", encoding="utf-8-sig")
    assert read_sheet(sheet) == [(2, {"name": "a", "value": "1"})]
    assert read_yaml(scale) == {"name": "a"}
