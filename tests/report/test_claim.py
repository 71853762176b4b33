"""The claim: comparisons seed by seed, worked by hand, and each verdict of the rule where it belongs."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import edit

from reals import files
from reals.cli.main import main
from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.report import claim, results

AT = ("early", "middle", "late")
ARMS = {"ReaLS": "reals", "base": "sd-vae", "control": "control"}
CONFIG = ["--config", "scale=cifar10"]


def measure(fids: Mapping[str, list[list[float]]], second: float = 3.0, **provenance) -> Registry:
    """Metrics files of scale cifar10: arm -> at each milestone, the FID of each seed; by the second judge ``second`` times as much."""
    registry = Registry(load("cifar10"))
    for arm, milestones in fids.items():
        for milestone, values in zip(AT, milestones, strict=True):
            for seed, fid in enumerate(values):
                name = f"sit-b4-{ARMS[arm]}_{milestone}" + (f"-seed{seed}" if seed else "")
                write(registry, name, fid, second * fid, **provenance)
    return registry


def write(registry: Registry, name: str, fid, second, **provenance) -> Path:
    artefact = registry.evaluations[name]
    path = registry.folder(artefact) / "metrics.json"
    values = {"fid": fid, "fid_second": second}
    made = {"kind": "evaluation", "name": name, "id": artefact.id, "values": values, "protocol": {}, "provenance": provenance}
    files.write_json(path, made)
    return path


def arms(ratio: list[float], control: list[float], base: float = 12.0) -> dict[str, list[list[float]]]:
    """Three milestones whose last has these ratios of ReaLS to the base and to the control, by seed."""
    early = [[2 * base] * len(ratio), [1.5 * base] * len(ratio)]
    reals = [base * r for r in ratio]
    return {
        "ReaLS": [*early, reals],
        "base": [*early, [base] * len(ratio)],
        "control": [*early, [fid / c for fid, c in zip(reals, control, strict=True)]],
    }


def found(registry: Registry) -> claim.Findings:
    made = claim.findings(registry, results.load(registry))
    assert made is not None
    return made


def test_a_comparison_worked_by_hand(project):
    last = found(measure(arms([0.8, 0.8 * math.e**-0.1, 0.8 * math.e**0.1], [0.9, 0.9, 0.9]))).deciding["fid", "base"]
    assert last.by_seed == pytest.approx({0: -0.2, 1: 0.8 * math.e**-0.1 - 1, 2: 0.8 * math.e**0.1 - 1})
    assert last.mean == pytest.approx(-0.2)
    half = 4.302652729911275 * 0.1 / math.sqrt(3)  # t of 2 degrees of freedom, times s / sqrt(n)
    assert last.interval == pytest.approx((0.8 * math.exp(-half) - 1, 0.8 * math.exp(half) - 1))
    assert last.sign_p == 0.25


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        ([0.98, 1.0, 1.02], True),  # the interval is that of +-2%
        ([0.84, 0.85, 0.86], False),
        ([0.75, 1.0, 1.2], False),  # so wide that it says nothing
        ([1.10, 1.11, 1.12], True),  # also beside a verdict
    ],
)
def test_an_effect_that_the_intervals_leave_out_is_said(ratio, said, project):
    lines = claim.sentences(found(measure(arms(ratio, [1.0, 1.01, 0.99]))))
    out = [line for line in lines if "outside the interval of every judge" in line]
    assert [line.startswith("A change of -15.0% against base is ") for line in out] == [True] * said
    assert lines.index(out[0]) < len(lines) - 1 if out else True


def test_one_judge_excludes_nothing_for_both(project):
    registry = measure(arms([0.98, 1.0, 1.02], [1.0, 1.01, 0.99]))
    write(registry, "sit-b4-reals_late-seed2", 12.2, 20.0)  # the second judge alone scatters
    assert not found(registry).excluded


@pytest.mark.parametrize(
    ("ratio", "control", "verdict"),
    [
        ([0.80, 0.81, 0.82], [0.9, 0.91, 0.92], "supported"),
        ([0.80, 0.81, 0.82], [0.7, 0.9, 1.1], "undecided"),  # the control may do as well
        ([0.90, 0.91, 0.92], [0.9, 0.91, 0.92], "helps, by less than 15%"),
        ([1.10, 1.12, 1.11], [0.9, 0.91, 0.92], "contradicted"),
        ([0.82, 0.75, 1.22], [0.9, 0.8, 1.03], "undecided"),
    ],
)
def test_the_rule_gives_each_verdict(ratio, control, verdict, project):
    assert found(measure(arms(ratio, control))).verdict == verdict


def test_every_judge_must_agree(project):
    registry = measure(arms([0.80, 0.81, 0.82], [0.9, 0.91, 0.92]))
    for seed, fid in enumerate((36.0, 35.0, 37.0)):  # by the second judge no better than the base
        write(registry, "sit-b4-reals_late" + (f"-seed{seed}" if seed else ""), 12.0 * 0.81, fid)
    made = found(registry)
    assert made.verdict == "undecided"
    assert all("photo-cnn-deep" in missing for missing in made.against("supported"))


def test_scale_and_order_of_seeds_change_nothing_and_swapped_arms_turn_the_sign(project):
    first = found(measure(arms([0.8, 0.9, 1.1], [0.9, 0.91, 0.92]))).deciding["fid", "base"]
    scaled = found(measure(arms([1.1, 0.8, 0.9], [0.9, 0.91, 0.92], base=5.0))).deciding["fid", "base"]
    assert scaled.mean == pytest.approx(first.mean) and scaled.interval == pytest.approx(first.interval)
    edit(Path("config/sheets/cifar10/claim.yaml"), "claimed: ReaLS", "claimed: base")
    edit(Path("config/sheets/cifar10/claim.yaml"), "    base: {mean_at_most", "    ReaLS: {mean_at_most")
    edit(Path("config/sheets/cifar10/claim.yaml"), "    base: {interval_below", "    ReaLS: {interval_below")
    edit(Path("config/sheets/cifar10/claim.yaml"), "    base: {interval_above", "    ReaLS: {interval_above")
    turned = found(Registry(load("cifar10"))).deciding["fid", "ReaLS"]
    low, high = scaled.interval
    assert math.log1p(turned.mean) == pytest.approx(-math.log1p(scaled.mean))
    assert turned.interval == pytest.approx((1 / (1 + high) - 1, 1 / (1 + low) - 1))


def test_what_decides_is_what_that_many_seeds_say(project):
    made = found(measure(arms([0.75, 0.82, 0.80], [0.80, 0.97, 0.98])))
    count, verdict = made.more_seeds
    assert made.verdict == "undecided" and verdict == "supported"
    deciding = made.deciding["fid", "control"]
    assert deciding.interval_of(count)[1] < 0 <= deciding.interval_of(count - 1)[1]
    assert f"{count} seeds would decide: supported" in made.what_decides


def test_no_number_of_seeds_settles_what_lies_between_the_bounds(project):
    made = found(measure(arms([0.82, 0.75, 0.80], [1.1, 1.0, 1.2])))  # as the paper says, yet no better than the control
    assert made.more_seeds is None and "not even 100 seeds" in made.what_decides


def test_steps_to_the_claimed_arms_last_value(project):
    registry = measure(arms([1.25, 1.25], [0.9, 0.9]))
    [base, control] = [r for r in found(registry).reached if r.metric == "fid"]
    share = math.log(18 / 15) / math.log(18 / 12)
    assert base.steps == pytest.approx(2000 + 1000 * share) and "base needs" in base.said
    assert control.steps is None and "control does not reach it in 3,000 steps" in control.said


def test_only_seeds_that_both_arms_have_are_compared(project):
    registry = measure(arms([0.8, 0.82, 0.81], [0.9, 0.9, 0.9]))
    (registry.folder(registry.evaluations["sit-b4-sd-vae_late"]) / "metrics.json").unlink()  # seed 0
    made = found(registry)
    assert made.deciding["fid", "base"].seeds == [1, 2] and made.deciding["fid", "control"].seeds == [0, 1, 2]


def test_pairs_that_two_copies_of_a_judge_measured_are_left_out(project):
    registry = measure(arms([0.8, 0.82, 0.81], [0.9, 0.9, 0.9]), extractor_sha256="a", second_extractor_sha256="b")
    write(registry, "sit-b4-reals_late-seed1", 10.0, 30.0, extractor_sha256="c", second_extractor_sha256="b")
    made = found(registry)
    assert made.deciding["fid", "base"].seeds == [0, 2] and made.deciding["fid_second", "base"].seeds == [0, 1, 2]
    assert any("sit-b4-reals_late-seed1 and sit-b4-sd-vae_late-seed1 were measured by two copies" in s for s in made.left_out)


def test_a_judge_of_its_own_network_is_named_and_its_copies_told_apart(project):
    edit(Path("config/sheets/cifar10/claim.yaml"), "fid_second]", "fid_second, fd_dinov2]")
    dino = "  fd_dinov2: {kind: small-cnn, name: photo-cnn-dino, width: 8, steps: 2, batch: 4, lr: 1.0e-3, seed: 1}\n"
    edit(Path("config/scales/cifar10.yaml"), "  second: {", f"{dino}  second: {{")
    registry = Registry(load("cifar10"))
    for arm, fid in (("reals", 4.0), ("sd-vae", 5.0), ("control", 5.0)):
        for seed in (0, 1, 2):
            path = write(
                registry, f"sit-b4-{arm}_late" + (f"-seed{seed}" if seed else ""), fid, 3 * fid, fd_dinov2_extractor_sha256="a"
            )
            values = files.read_json(path) | {"values": {"fid": fid, "fid_second": 3 * fid, "fd_dinov2": 0.9 * fid}}
            if (arm, seed) == ("control", 1):
                values["provenance"] = {"fd_dinov2_extractor_sha256": "b"}
            files.write_json(path, values)
    made = found(registry)
    assert made.judges["fd_dinov2"] == "FD-DINOv2 (photo-cnn-dino)"
    assert made.deciding["fd_dinov2", "base"].mean == pytest.approx(-0.2)
    assert made.deciding["fd_dinov2", "control"].seeds == [0, 2] and made.deciding["fid", "control"].seeds == [0, 1, 2]


def test_one_seed_decides_nothing(project, capsys):
    measure(arms([0.8], [0.9]))
    assert main(["claim", *CONFIG]) == 0
    assert "Verdict: undecided. One seed cannot tell an effect from chance" in capsys.readouterr().out


def test_the_command_prints_the_verdict_and_the_same_as_json(project, capsys):
    measure(arms([0.80, 0.81, 0.82], [0.9, 0.91, 0.92]))
    assert main(["claim", *CONFIG]) == 0
    out = capsys.readouterr().out
    assert "Verdict: supported." in out and "15% lower FID at equal cost" in out and "FID (photo-cnn-deep)" in out
    assert main(["claim", *CONFIG, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["verdict"] == "supported" and len(made["changes"]) == 2 * 3 * 2 and made["seeds"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda path: path.write_text(path.read_text()[:40]), "damaged"),
        (
            lambda path: path.write_text(path.read_text().replace(str(12.0 * 0.8), '"x"', 1)),
            "damaged (fid is 'x', no number); delete it",
        ),
        (lambda path: path.write_text(path.read_text().replace(str(12.0 * 0.8), "NaN", 1)), "says that fid is nan; delete it"),
    ],
)
def test_a_broken_metrics_file_gets_one_line(break_it, says, project, capsys):
    registry = measure(arms([0.8, 0.82], [0.9, 0.9]))
    break_it(registry.folder(registry.evaluations["sit-b4-reals_late"]) / "metrics.json")
    assert main(["claim", *CONFIG]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert says in line


@pytest.mark.parametrize(("scale", "says"), [("cifar10", "no pair of"), ("cifar", "did you mean 'cifar10'")])
def test_nothing_measured_or_no_such_scale_gets_one_line(scale, says, project, capsys):
    assert main(["claim", "--config", f"scale={scale}"]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert says in line


def test_a_change_is_told_from_zero_and_from_the_bound_that_it_misses():
    assert claim.percent(-0.142) == "-14.2%" and claim.percent(0.0) == claim.percent(1e-17) == "0%"
    assert claim.percent(-0.0004) == "-0.04%"  # an interval to this is below zero
    assert claim.percent(-0.14996, -0.15) == "-14.996%" and claim.percent(-0.15, -0.15) == "-15.0%"


def test_lines_of_fewer_seeds_name_them_and_small_distances_keep_their_digits(project):
    registry = measure(arms([0.8, 0.82, 0.81], [0.9, 0.9, 0.9], base=0.012))
    (registry.folder(registry.evaluations["sit-b4-sd-vae_late"]) / "metrics.json").unlink()  # seed 0
    made = found(registry)
    last = next(row for row in claim.rows(made) if row[1:3] == ("3,000", "base"))
    assert last[3] == "0.00978 ± 0.00008" and last[-1] == "-18.0% (seed 1), -19.0% (seed 2)"
    said = claim.sentences(made)
    assert said[0].startswith("Seeds 0, 1, 2; lines of fewer name theirs.")
    assert any(
        "ReaLS is at 0.00978 after 3,000 steps" in line and line.endswith("(geometric means of seeds 1, 2).") for line in said
    )
