"""The selftest: all is well on this machine, and what goes wrong in a check is a line."""

import json

import pytest
import torch
from conftest import REPOSITORY

from reals.cli import main
from reals.experiment.sampler_table import SAMPLERS
from reals.method import precision as precisions
from reals.planning.selftest import checks
from reals.planning.selftest.agreement import distance, leaves, same_bits, within
from reals.planning.selftest.outcome import Check, Fault, Result, Skipped, results
from reals.planning.selftest.runs import Runs
from reals.planning.selftest.steps import ALLOWED, CPU

CONFIG = REPOSITORY / "config"
NO_GPU = {"GPU", "driver", "teacher, two steps", "extractor, two steps", "heads, two steps"}


@pytest.mark.process
def test_all_is_well_on_a_machine_without_gpu(tmp_path):
    looked = [check for check in checks.checks(checks.tiny(CONFIG), CPU, tmp_path, CONFIG) if check.what != "torch.compile"]
    with checks.settings_kept():
        found = {result.what: result for result in results(looked)}
    assert [str(r) for r in found.values() if r.mark == "FAIL"] == []
    skipped = {what for what, result in found.items() if result.mark == "skip"}
    assert skipped - {"compiler"} == (NO_GPU if not torch.cuda.is_available() else skipped - {"compiler"})
    assert {f"sampler {name}" for name in SAMPLERS} | {f"{stage}, twice" for stage in ALLOWED} <= found.keys()
    assert "the same bits as undisturbed" in found["resume"].said
    assert found["processes"].said.startswith("2 on the CPU (gloo): ")


@pytest.mark.extra
def test_a_compiled_network_makes_the_same_steps(tmp_path):
    assert "from eager after 2 steps" in Runs(checks.tiny(CONFIG), CPU, tmp_path, CONFIG).compiled()


def test_the_command_prints_a_line_each_and_fails_where_one_does(tmp_path, monkeypatch, capsys):
    told = [Result("a", "ok", "1e-06", 0.1), Result("b", "skip", "no GPU", 0.0), Result("c", "FAIL", "2 apart; mend it", 0.0)]
    monkeypatch.setattr(checks, "selftest", lambda folder, quick, sheets: iter(told))
    assert main.main(["selftest", "--json", str(tmp_path / "found.json")]) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["ok   a: 1e-06", "skip b: no GPU", "FAIL c: 2 apart; mend it"]
    assert printed.err.splitlines() == ["reals selftest: 1 of 3 failed"]
    written = json.loads((tmp_path / "found.json").read_text())
    assert written["failed"] == 1
    assert written["checks"][2] == {"what": "c", "mark": "FAIL", "said": "2 apart; mend it", "seconds": 0.0}
    monkeypatch.setattr(checks, "selftest", lambda folder, quick, sheets: iter(told[:2]))
    assert main.main(["selftest"]) == 0


def test_quick_leaves_the_dear_ones_out_and_settings_stay(monkeypatch, tmp_path):
    def turning():
        precisions.allow_tf32(True)
        torch.use_deterministic_algorithms(False)
        return "turned"

    every = [Check("cheap", turning, ""), Check("dear", lambda: "ran", "", dear=True)]
    monkeypatch.setattr(checks, "checks", lambda *arguments: every)
    assert [r.what for r in checks.selftest(tmp_path, True, CONFIG)] == ["cheap"]
    assert [r.what for r in checks.selftest(tmp_path, False, CONFIG)] == ["cheap", "dear"]
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_float32_matmul_precision() == "highest"


def test_what_a_check_raises_is_a_line_and_the_next_one_runs():
    def skips():
        raise Skipped("no GPU")

    looked = [Check("a", lambda: same_bits(1, 2, ""), "report it"), Check("b", skips, ""), Check("c", lambda: "fine", "")]
    a, b, c = results(looked)
    assert a.mark == "FAIL"
    assert a.said.startswith("AttributeError at planning/selftest/agreement.py:")
    assert a.said.endswith("; report it")
    assert (b.mark, b.said) == ("skip", "no GPU")
    assert str(c) == "ok   c: fine"


def test_numbers_that_are_not_finite_agree_with_nothing():
    one, bad = torch.ones(3), torch.tensor([1.0, float("nan"), 1.0])
    assert distance(2 * one, one) == pytest.approx(1.0)
    assert distance(0 * one, 0 * one) == 0
    with pytest.raises(Fault, match=r"it: nan apart, 1e\+00 allowed"):
        within(distance(bad, one), 1.0, "it")
    with pytest.raises(Fault, match="not the same tensors: b"):
        same_bits(leaves({"a": one}), leaves({"a": one, "b": one}), "it")
    with pytest.raises(Fault, match=r"a\.0 differs by 1\.0e\+00"):
        same_bits(leaves({"a": [2 * one]}), leaves({"a": [one]}), "it")
