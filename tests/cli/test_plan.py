"""`reals plan`: what it prints, its JSON, and mistakes in one line."""

import json

import pytest

from reals import files
from reals.cli import plan
from reals.cli.main import main
from reals.experiment.stage_table import OF_COMMAND
from reals.planning import rates


def test_the_command_prints_and_gives_json(project, capsys):
    assert main(["plan", "--config", "scale=imagenet256", "--gpu", "h100", "--nodes", "2"]) == 0
    text = capsys.readouterr().out
    assert "2 x 8 NVIDIA H100 SXM (rates: stated in config/rates.yaml)" in text
    said = [line.split()[:-1] for line in text.splitlines()[2:]]
    for kind in (
        "transformer XL bf16 300",
        "sampling XL tf32 140",
        "autoencoder bf16 180",
        "encoding tf32 122",
        "encoding fp32 40",
    ):
        assert kind.split() in said
    assert "by the ratio of the peaks" not in text
    assert "on 16 GPUs" in text and "table03" in text and "sit-xl2-reals" in text
    assert main(["plan", "--config", "scale=imagenet256", "--gpu", "a100", "--json"]) == 0
    stated = json.loads(capsys.readouterr().out)
    b = next(j for j in stated["jobs"] if (j["name"], j["step"]) == ("sit-b2-reals", 400_000))
    assert b["device_hours"] == pytest.approx(76 * 52 / 120, rel=0.01)  # the reference's figure at 52 TFLOP/s, ours at 120


def test_a_rate_that_was_not_measured_is_named(project, capsys):
    measured = {"bf16": dict.fromkeys(rates.KINDS, 200), "tf32": dict.fromkeys(rates.KINDS, 100)}
    files.write_json(rates.measured_path("a card"), {"device": "a card", "threads": None, "peak_tflops": {"fp32": 50, "tf32": 400},
                                                     "scales": {"imagenet256": {"date": "x", "tflops": measured}}})  # fmt: skip
    assert main(["plan", "--config", "scale=imagenet256", "--gpu", "a card"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "by the ratio of the peaks" in line)
    assert "encoding fp32 (from tf32)" in line and "reals measure" in line and "bf16" not in line


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
    [(["--gpu", "b200"], "b200: no rates of this device at scale demo; run `reals measure --config scale=demo`"),
     ([], "no rates of this device"),
     (["--config", "scael=demo"], "scael=demo: expected KEY=VALUE with a key of scale, data"),
     (["--config", "scale=imagenet"], "scale 'imagenet' is not defined; did you mean 'imagenet256'? (or give the path of a scale file)"),
     (["--gpu", "h100", "--nodes", "0"], "--nodes 0: expected at least 1")],
)  # fmt: skip
def test_mistakes_get_one_line(project, capsys, arguments, says):
    assert main(["plan", *arguments]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
