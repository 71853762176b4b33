"""Wall-clock of a plan: bounds, what several devices are good for, and one job a CPU."""

from dataclasses import replace

import pytest
from conftest import REPOSITORY, edit

from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.planning import cost, rates
from reals.planning.plan import plan_of
from reals.planning.schedule import devices_of, schedule

RATES = rates.Rates("a device", "a test", {}, dict.fromkeys(("fp32", "tf32", "bf16"), dict.fromkeys(rates.KINDS, 1e15)))


@pytest.fixture(scope="module")
def paper() -> cost.Costs:
    return cost.Costs(Registry(load("imagenet256", folder=REPOSITORY / "config")))


def test_the_schedule_is_bounded_by_work_and_by_the_longest_path(paper):
    shown = paper.graph.shown
    targets = paper.graph.missing(t for some in shown.values() for t in some)
    work = sum(RATES.seconds(paper.jobs[t].work) for t in targets)
    longest = schedule(paper, targets, RATES, 0)
    assert schedule(paper, targets, RATES, 1) == pytest.approx(work)
    times = [schedule(paper, targets, RATES, n) for n in (1, 8, 64, 512)]
    assert times == sorted(times, reverse=True)
    for n, seconds in zip((1, 8, 64, 512), times, strict=True):
        assert max(work / n, longest) <= seconds * (1 + 1e-9)
        assert seconds <= work / n * 8 + longest  # Graham's bound, jobs up to eight wide
    assert times[-1] == pytest.approx(longest, rel=0.05)


def test_one_thread_cpus_run_one_job_each(project):
    costs = cost.Costs(Registry(load("smoke")))
    cpu = replace(RATES, threads=1)
    assert cpu.unit == "CPU" and RATES.unit == "GPU"
    assert all(devices_of(costs, job, cpu, 2) == 1 for job in costs.jobs.values())


def test_only_the_stages_that_use_several_gpus_are_faster_on_them(project):
    edit(project / "config/scales/smoke.yaml", "name: smoke\n", "name: smoke\nresources: {default: {gpu: 8}}\n")
    costs = cost.Costs(Registry(load("smoke")))
    assert {job.stage: devices_of(costs, job, RATES, 4) for job in costs.jobs.values()} == {
        "data": 1, "teacher": 1, "extractor": 1, "features": 4, "autoencoder": 4, "latents": 4, "transformer": 4, "sample": 1,
        "reference": 1, "evaluate": 1, "analyse": 1, "downstream": 1,
    }  # fmt: skip
    # Two shards of samples hold all GPUs in turn and work on one.
    sample = next(job for job in costs.jobs.values() if job.stage == "sample" and job.copies == 2)
    seconds = RATES.seconds(sample.work)
    assert schedule(costs, {sample.target}, RATES, 8) == pytest.approx(seconds)
    assert schedule(costs, {sample.target}, RATES, 16) == pytest.approx(seconds / 2)
    planned = {job["target"]: job["wall_hours"] for job in plan_of(costs, RATES, 2, 8)["jobs"]}
    assert planned[sample.target] == pytest.approx(seconds / 2 / 3600)
