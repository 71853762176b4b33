"""`reals plan`: what it prints, its JSON, and mistakes in one line."""

import json

import pytest

from reals.cli import plan
from reals.cli.main import main
from reals.experiment.stage_table import OF_COMMAND


def test_the_command_prints_and_gives_json(project, capsys):
    assert main(["plan", "--config", "scale=imagenet256", "--gpu", "h100", "--nodes", "2"]) == 0
    text = capsys.readouterr().out
    assert "2 x 8 NVIDIA H100 SXM, bf16 (rates: stated in config/rates.yaml)" in text
    assert "on 16 GPUs" in text and "table03" in text and "sit-xl2-reals" in text
    assert main(["plan", "--config", "scale=imagenet256", "--gpu", "a100", "--precision", "tf32", "--json"]) == 0
    stated = json.loads(capsys.readouterr().out)
    b = next(j for j in stated["jobs"] if (j["name"], j["step"]) == ("sit-b2-reals", 400_000))
    assert b["device_hours"] == pytest.approx(76, rel=0.01)  # the reference's figure at 52 TFLOP/s


def test_the_jobs_of_every_stage_are_printed(project, capsys, monkeypatch):
    assert main(["plan", "--config", "scale=imagenet256", "--gpu", "h100", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    monkeypatch.setitem(OF_COMMAND, "probe", OF_COMMAND["data"])  # a stage that was added to the table, and to nothing else
    planned["jobs"] = [planned["jobs"][0] | {"stage": command, "name": f"{command}-job"} for command in OF_COMMAND]
    lines = plan.printed(planned).splitlines()
    for command in OF_COMMAND:
        assert any(f"{command}-job" in line for line in lines), command
    assert "probe" in lines
    assert {command for stages in plan.GROUPS.values() for command in stages} <= set(OF_COMMAND)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--gpu", "h200"], "h200: no rates of this device at scale demo; run `reals measure --config scale=demo`"),
     ([], "no rates of this device"),
     (["--gpu", "h100", "--precision", "fp32"], "no rates for precision 'fp32'; known: bf16, tf32"),
     (["--config", "scael=demo"], "scael=demo: expected KEY=VALUE with a key of scale, data"),
     (["--config", "scale=imagenet"], "scale 'imagenet' is not defined; did you mean 'imagenet256'? (or give the path of a scale file)"),
     (["--gpu", "h100", "--nodes", "0"], "--nodes 0: expected at least 1")],
)  # fmt: skip
def test_mistakes_get_one_line(project, capsys, arguments, says):
    assert main(["plan", *arguments]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
