"""A scale may bring sheets of its own."""

from pathlib import Path

import pytest
from conftest import edit

from reals.experiment.load import load
from reals.experiment.reading import ConfigError


def test_a_scale_may_bring_its_own_sheets(project):
    own = Path("config/sheets/two-arms")
    own.mkdir(parents=True)
    edit(Path("config/scales/demo.yaml"), "name: demo\n", "name: demo\nsheets: two-arms\n")
    with pytest.raises(ConfigError, match="sheets: folder of config/sheets 'two-arms' is not defined"):
        load("demo")
    rows = Path("config/runs.tsv").read_text().splitlines()
    (own / "runs.tsv").write_text("\n".join(line for line in rows if "dit-b2-reals" not in line) + "\n")
    with pytest.raises(ConfigError, match=r"config/evaluations.tsv line \d+: run 'dit-b2-reals' is not defined"):
        load("demo")
    cells = [line for line in Path("config/evaluations.tsv").read_text().splitlines() if "dit-b2-reals" not in line]
    (own / "evaluations.tsv").write_text("\n".join(cells) + "\n")
    (own / "tables").mkdir()
    (own / "tables.yaml").write_text("arms: {title: Arms, columns: {arm: Arm}, metrics: [fid], source: evaluation}\n")
    (own / "tables/arms.tsv").write_text(
        "key\tsection\tarm\tsource\tbaseline\tfid\tnote\nreals\t-\tReaLS\tsit-b2-reals_400K\t-\t-\t-\n"
    )
    experiment = load("demo")
    assert list(experiment.tables) == ["arms"] and "dit-b2-reals" not in experiment.runs
    assert experiment.autoencoders.keys() == load("smoke").autoencoders.keys()  # what it does not bring is config's own
    (own / "run.tsv").touch()
    with pytest.raises(
        ConfigError, match=r"config/sheets/two-arms/run.tsv: sheet 'run.tsv' is not defined; did you mean 'runs.tsv'"
    ):
        load("demo")
