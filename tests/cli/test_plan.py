"""`reals plan`: what it prints, its JSON, and mistakes in one line."""

import json

import pytest

from reals import files
from reals.cli import plan
from reals.cli.main import main
from reals.experiment.stage_table import OF_COMMAND
from reals.planning import footprint, rates


def test_the_command_prints_and_gives_json(project, capsys):
    assert main(["plan", "--config", "scale=imagenet256", "--gpu", "h100", "--nodes", "2", "--no-memory"]) == 0
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
    assert main(["plan", "--config", "scale=imagenet256", "--gpu", "a100", "--json", "--no-memory"]) == 0
    stated = json.loads(capsys.readouterr().out)
    b = next(j for j in stated["jobs"] if (j["name"], j["step"]) == ("sit-b2-reals", 400_000))
    assert b["device_hours"] == pytest.approx(76 * 52 / 120, rel=0.01)  # the reference's figure at 52 TFLOP/s, ours at 120


@pytest.mark.slow
def test_the_memory_of_gpus(project, capsys, monkeypatch):
    monkeypatch.setattr(footprint, "transformer", lambda r, run, gpus, accumulate, on: run.spec.width * 3 * 10**7 // accumulate)
    monkeypatch.setattr(footprint, "autoencoder", lambda *how: 10**9)
    monkeypatch.setattr(footprint, "sampling", lambda *how: 5 * 10**11)
    monkeypatch.setattr(footprint, "encoding", lambda *how: 10**9)
    for extra, size in (([], 80), (["--card", "24"], 24)):
        assert main(["plan", "--config", "scale=imagenet256", "--gpu", "h100", *extra]) == 0
        text = capsys.readouterr().out
        assert text.index("Memory of each GPU") > text.index("From nothing") and f"cards of {size} GB" in text
    (xl,) = (line for line in text.splitlines() if "SiT-XL" in line)  # 34.6 GB and a little
    assert (
        "32 each" in xl
        and " 40 " in xl
        and xl.endswith("no; engine.accumulate 2, or engine.accumulate 2 with engine.checkpoint_blocks")
    )
    (drawing,) = (line for line in text.splitlines() if "drawing" in line)
    assert "none" in drawing and drawing.endswith("a smaller sampling.batch")
    assert main(["plan", "--config", "scale=imagenet256", "--gpu", "h100", "--per-node", "1", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    xl = next(row for row in planned["memory"] if row["what"] == "SiT-XL")
    assert planned["card_gb"] == 80 and xl["gpus"] == 1 and xl["of_each"] == 256 and xl["fits"] and xl["card"] == 40


def test_memory_is_of_gpus_alone_and_can_be_left_out(project, capsys):
    assert main(["plan", "--config", "scale=imagenet256", "--gpu", "h100", "--no-memory"]) == 0
    assert "Memory of each GPU" not in capsys.readouterr().out
    files.write_json(rates.measured_path("a CPU"), {"device": "a CPU", "threads": 2, "peak_tflops": {"fp32": 50},
                                                    "scales": {"demo": {"date": "x", "tflops": {"fp32": dict.fromkeys(rates.KINDS, 1)}}}})  # fmt: skip
    assert main(["plan", "--config", "scale=demo", "--gpu", "a CPU", "--json"]) == 0
    assert "memory" not in json.loads(capsys.readouterr().out)


def test_a_rate_that_was_not_measured_is_named(project, capsys):
    measured = {"bf16": dict.fromkeys(rates.KINDS, 200), "tf32": dict.fromkeys(rates.KINDS, 100)}
    files.write_json(rates.measured_path("a card"), {"device": "a card", "threads": None, "peak_tflops": {"fp32": 50, "tf32": 400},
                                                     "scales": {"imagenet256": {"date": "x", "tflops": measured}}})  # fmt: skip
    assert main(["plan", "--config", "scale=imagenet256", "--gpu", "a card", "--no-memory"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "by the ratio of the peaks" in line)
    assert "encoding fp32 (from tf32)" in line and "reals measure" in line and "bf16" not in line


def test_the_jobs_of_every_stage_are_printed(project, capsys, monkeypatch):
    assert main(["plan", "--config", "scale=imagenet256", "--gpu", "h100", "--json", "--no-memory"]) == 0
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
     (["--config", "scale=cifar10", "data=my photographs"], "run `reals measure --config scale=cifar10 'data=my photographs'` on it"),
     (["--config", "scael=demo"], "scael=demo: expected KEY=VALUE with a key of scale, data"),
     (["--config", "scale=imagenet"], "scale 'imagenet' is not defined; did you mean 'imagenet256'? (or give the path of a scale file)"),
     (["--gpu", "h100", "--nodes", "0"], "--nodes 0: expected at least 1")],
)  # fmt: skip
def test_mistakes_get_one_line(project, capsys, arguments, says):
    assert main(["plan", *arguments]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
