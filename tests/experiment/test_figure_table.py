"""The figure table: every figure has a name of its own, words below it, and results it can be drawn from."""

import pytest
from conftest import REPOSITORY

from reals.experiment import figure_table
from reals.experiment.load import load
from reals.experiment.registry import Registry

SCALES = ("demo", "photographs", "cifar10", "imagenet100", "imagenet256", "smoke")


@pytest.mark.parametrize("scale", SCALES)
def test_every_figure_can_be_named_and_drawn(scale):
    registry = Registry(load(scale, folder=REPOSITORY / "config"))
    figures = figure_table.figures(registry)
    expected = [figure.name for figure in figure_table.FIGURES if figure.name in figures or not figure.optional]
    assert list(figures) == expected and len(figure_table.OF_NAME) == len(figure_table.FIGURES)
    for name in figures:
        assert figure_table.title(name) and "{" not in figure_table.caption(registry.experiment, name)
        files = figure_table.inputs(registry, name)
        assert len(files) == len(set(files))
        arrays = [file for file in files if file.suffix == ".npz"]
        assert len(arrays) == (len(files) / 2 if figure_table.OF_NAME[name].drawn_from == "arrays" else 0)


def test_a_caption_says_what_the_sheets_chose():
    experiment = load("smoke", folder=REPOSITORY / "config")
    assert experiment.figures.figure3["evaluation"] in figure_table.caption(experiment, "figure3")
    assert f"({experiment.scale.downstream.target})" in figure_table.caption(experiment, "figure4")
