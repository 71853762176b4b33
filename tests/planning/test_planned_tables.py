"""The cost of each table, given what exists and the tables before it; and what a scale file says of its own cost."""

import re
from pathlib import Path

import pytest
from conftest import REPOSITORY

from reals import files
from reals.experiment.graph import Graph
from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.planning import cost, rates
from reals.planning.plan import plan_of

RATES = rates.Rates("a device", "a test", {}, dict.fromkeys(("fp32", "tf32", "bf16"), dict.fromkeys(rates.KINDS, 1e15)))


@pytest.fixture(scope="module")
def paper() -> cost.Costs:
    return cost.Costs(Registry(load("imagenet256", folder=REPOSITORY / "config")))


def test_what_exists_is_free_and_what_is_behind_it_too(project):
    def made() -> dict:
        return {t["table"]: t for t in plan_of(cost.Costs(Registry(load("smoke"))), RATES, 1, 8)["tables"]}

    before = made()
    registry = Registry(load("smoke"))
    costs = cost.Costs(registry)
    for target in costs.graph.shown["table06"]:
        files.write_json(Path(target), {})
        Path(target).with_name("pictures.npz").touch()
    after = made()
    assert before["table06"]["alone"]["flops"] > 0 == after["table06"]["alone"]["flops"]
    assert after["table12"]["alone"]["flops"] < before["table12"]["alone"]["flops"]  # they share a row
    assert after["table08"]["alone"] == before["table08"]["alone"]
    run = registry.runs["sit-b2-reals"]
    last = costs.graph.target(run, registry.experiment.scale.milestones["4M"])
    assert costs.graph.target(registry.autoencoders["reals"]) in costs.graph.missing([last])
    files.write_json(Path(last), {})
    assert not Graph(registry).missing([last])


def test_shared_work_is_counted_once(paper):
    made = plan_of(paper, RATES, 2, 8)
    last = made["tables"][-1]["sum"]
    assert last["flops"] == made["missing"]["flops"] < sum(t["alone"]["flops"] for t in made["tables"])
    assert sum(t["adds"]["flops"] for t in made["tables"]) == last["flops"]
    assert {t["table"]: t["adds"]["flops"] for t in made["tables"]}["table12"] == 0  # repeats Table 5


NAMED = {"A100 80 GB": "a100", "H100": "h100", "RTX 4090": "rtx4090"}
CORE = ("arms", "table02", "table08", "figures")


@pytest.mark.parametrize(("scale", "devices"), [("imagenet100", ["A100 80 GB", "H100"]), ("imagenet100-24gb", ["RTX 4090"])])
def test_the_head_of_a_scale_for_one_gpu_says_what_the_plan_says(scale, devices):
    head = (REPOSITORY / f"config/scales/{scale}.yaml").read_text()
    said = dict(re.findall(r"^#   (.+): ([\d.]+) GPU-hours$", head, re.MULTILINE))
    assert list(said) == devices
    costs = cost.Costs(Registry(load(scale, folder=REPOSITORY / "config")))
    core = costs.graph.missing([target for name in CORE for target in costs.graph.shown[name]])
    for device, hours in said.items():
        known = rates.load(NAMED[device], scale, REPOSITORY / "config/rates.yaml")
        total = sum(known.seconds(costs.jobs[target].work) for target in core) / 3600
        assert f"{total:.1f}" == hours and total < 24, device
