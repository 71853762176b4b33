"""One set of options says in every command which experiment it is about."""

import argparse
import shlex
from pathlib import Path

import pytest
from conftest import edit

from reals.cli.experiment import add_experiment, experiment_from, experiment_of, one_each
from reals.cli.main import main, parser
from reals.experiment.reading import ConfigError

ABOUT_AN_EXPERIMENT = [
    "stage transformer", "tables", "figure", "report", "render", "ids", "publish", "verify", "measure", "plan", "check", "why",
]  # fmt: skip


def parsed(*arguments: str) -> argparse.Namespace:
    p = argparse.ArgumentParser()
    p.add_argument("id", nargs="?")
    add_experiment(p)
    return p.parse_args(one_each(list(arguments)))


@pytest.mark.parametrize("command", ABOUT_AN_EXPERIMENT)
def test_every_command_takes_the_same_two_options(command, capsys):
    with pytest.raises(SystemExit):
        parser().parse_args([*command.split(), "--help"])
    said = capsys.readouterr().out
    assert "--config KEY=VALUE" in said and "--sheets FOLDER" in said and "--scale" not in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["an-id", "--config", "scale=smoke", "seed=1"],
        ["--config", "scale=smoke", "seed=1", "an-id"],
        ["--config", "scale=smoke", "an-id", "--config", "seed=1"],
        ["--config=scale=smoke", "--config=seed=1", "an-id"],
        ["--config", "scale=smoke", "seed=1", "--", "an-id"],
    ],
)
def test_an_id_may_stand_on_either_side_of_the_keys(arguments):
    options = parsed(*arguments)
    assert options.id == "an-id"
    assert options.config == ["scale=smoke", "seed=1"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ids", "--config", "an-id"], "reals ids: --config an-id: expected KEY=VALUE with a key of scale, data, seed"),
        (["stage", "data", "--config", "an-id"], "reals stage data: --config an-id: expected KEY=VALUE"),
        (["ids", "--config", "scale=smoke", "sede=1"], "--config sede=1: expected KEY=VALUE"),
        (
            ["ids", "--config", "engine.profile=[10]"],
            "engine.profile is a setting of the scale: write it into its file, config/scales/",
        ),
        (["ids", "--config", "scale=smoke", "seed=first"], "--config seed=first: expected a whole number"),
        (["ids", "--config", "scale=smoke", "data="], "--config data=: no value; write one, or leave data out"),
        (["ids", "--config", "scale=smok"], "did you mean 'smoke'"),
    ],
)
def test_a_mistake_in_the_keys_gets_one_line(project, capsys, arguments, says):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_without_a_scale_the_file_and_the_option_are_named(project, capsys):
    edit(project / "config/config.yaml", "scale: demo", "seed: 1")
    assert main(["ids"]) == 2
    assert "config/config.yaml names no scale; pass --config scale=<name>" in capsys.readouterr().err


def test_what_an_experiment_overrides_means_the_same_experiment_again(project):
    """As the rules' shell lines pass it on, quoted; a folder may have spaces and equals signs in its name."""
    folder = project / "my photos, iso=100"
    folder.mkdir()
    given = {"scale": "cifar10", "data": str(folder), "seed": 3, "rehearsal": True}
    experiment = experiment_from(given)
    line = shlex.join(["--config", *experiment.overrides])
    again = experiment_of(parsed(*shlex.split(f"an-id {line}")))
    assert again == experiment and again.scale.data.path == str(folder)
    assert again.overrides == ("scale=cifar10", "rehearsal=true", f"data={folder}", "seed=3")


def test_another_folder_of_sheets_has_its_own_config(project):
    (project / "config").rename(project / "mine")
    edit(project / "mine/config.yaml", "scale: demo", "scale: smoke")
    experiment = experiment_of(parsed("--sheets", "mine"))
    assert (experiment.folder, experiment.scale.name) == (Path("mine"), "smoke")


def test_a_key_nobody_knows_in_snakemake_s_config_is_named():
    with pytest.raises(ConfigError, match="--config scle: unknown key; known: data, rehearsal, scale, seed, site"):
        experiment_from({"scle": "demo"})
