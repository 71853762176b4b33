"""The time left of a whole run, replayed on what the demo's jobs took."""

import random
from dataclasses import replace

import pytest
from conftest import REPOSITORY

from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.experiment.stage_table import OF_COMMAND
from reals.planning import rates, time_left
from reals.planning.cost import Costs
from reals.planning.time_left import Expected, Running, TimeLeft

# What two whole demo runs noted in their journals: CPU-seconds of one job of each kind, and GFLOP/s where the kind has several
# sizes of job. A job that is not here takes what its kind says, give or take 15%. The busy one was made when steps and batches
# were more; its seconds are scaled to what they are now.
BUSY = {  # beside other work
    ("data", ""): 3.3, ("teacher", "digits-vit-b"): 18.6, ("teacher", "digits-vit-l"): 34.3, ("extractor", ""): 35.8,
    ("features", "digits-vit-b_digits"): 1.9, ("features", "digits-vit-l_digits"): 4.4, ("reference", ""): 2.9,
    ("autoencoder", "sd-vae"): 112.5, ("autoencoder", ""): 24.0, ("latents", ""): 3.1, ("evaluate", ""): 0.8,
    ("analyse", ""): 7.3, ("downstream", ""): 6.2,
}, {
    "transformer B": 17.1, "transformer L": 23.0, "transformer XL": 28.9, "sampling B": 20.6, "sampling L": 25.7, "sampling XL": 34.4,
}  # fmt: skip
FREE = {  # on two cores of its own
    ("data", ""): 1.6, ("teacher", "digits-vit-b"): 13.6, ("teacher", "digits-vit-l"): 23.5, ("extractor", ""): 26.4,
    ("features", "digits-vit-b_digits"): 1.4, ("features", "digits-vit-l_digits"): 2.9, ("reference", ""): 2.1,
    ("autoencoder", "sd-vae"): 73.7, ("autoencoder", ""): 20.5, ("latents", ""): 1.95, ("evaluate", ""): 0.64,
    ("analyse", ""): 5.7, ("downstream", ""): 4.2,
}, {
    "transformer B": 28.4, "transformer L": 29.0, "transformer XL": 40.9, "sampling B": 29.0, "sampling L": 40.4, "sampling XL": 49.5,
}  # fmt: skip


def demo(known: rates.Rates, slots: int, record=FREE) -> tuple[dict[int, Expected], dict[int, float], dict[int, int]]:
    """(the jobs behind all tables as the plan sees them, what each takes, its stage's priority)."""
    seconds, gflops = record
    costs, chance = Costs(Registry(load("demo", folder=REPOSITORY / "config"))), random.Random(1)
    wanted = costs.graph.behind(target for targets in costs.graph.shown.values() for target in targets)
    number = {target: i for i, target in enumerate(t for t in costs.jobs if t in wanted)}
    jobs, takes, priority = {}, {}, {}
    for target, i in number.items():
        job = costs.jobs[target]
        needs = frozenset(number[needed] for needed in job.needs)
        jobs[i] = time_left.expected(job.stage, job, known, needs, 1 / slots)
        name = job.artefact.rpartition("-")[0]
        own = seconds.get((job.stage, name), seconds.get((job.stage, "")))
        if own is None:
            own = 0.3 + sum(flops / gflops.get(kind.work, 35.0) / 1e9 for kind, flops in job.work.items())
        takes[i] = own * (1.0 if (job.stage, name) in seconds else chance.uniform(0.85, 1.15))
        priority[i] = OF_COMMAND[job.stage].priority
    return jobs, takes, priority


def replayed(jobs, takes, priority, slots: int) -> list[tuple[float, float, float]]:
    """(share of the work that is done, seconds left as estimated, and in truth) whenever a job ends."""
    estimate, began, ended, now, said = TimeLeft(jobs), {}, set(), 0.0, []
    while len(ended) < len(jobs):
        ready = sorted((-priority[i], i) for i, job in jobs.items() if i not in ended and i not in began and job.needs <= ended)
        for _, i in ready[: slots - len(began)]:
            began[i] = now
        first = min(began, key=lambda i: began[i] + takes[i])
        now = began.pop(first) + takes[first]
        ended.add(first)
        estimate.took[first] = takes[first]
        done = sum(takes[i] for i in ended) + sum(now - at for at in began.values())
        said.append((done / sum(takes.values()), estimate.seconds({i: Running(now - at) for i, at in began.items()}), now))
    return [(share, left, now - at) for share, left, at in said]


@pytest.mark.parametrize(("record", "slower"), [(FREE, 1.0), (BUSY, 1.0), (BUSY, 0.1), (FREE, 7.0)])
def test_it_is_right_to_a_fifth_after_a_tenth_of_the_work(record, slower):
    """However fast the machine is, which nobody has measured."""
    jobs, takes, priority = demo(time_left.CPU, 2, record)
    said = replayed(jobs, {i: seconds * slower for i, seconds in takes.items()}, priority, 2)
    after = [(left, truth) for share, left, truth in said if 0.1 <= share <= 0.9]
    assert len(after) > 50
    for left, truth in after:
        assert left == pytest.approx(truth, rel=0.2)


@pytest.mark.parametrize(("slots", "tolerance"), [(1, 1e-9), (2, 0.06), (3, 0.06)])
def test_what_was_measured_wrong_by_one_factor_is_right_at_once(slots, tolerance):
    """On more slots what jobs wait for counts too, whose order Snakemake chooses otherwise."""
    jobs, _, priority = demo(time_left.CPU, slots)
    takes = {i: 3.3 * job.seconds for i, job in jobs.items()}
    for share, left, truth in replayed(jobs, takes, priority, slots):
        if 0.02 < share < 0.9:
            assert left == pytest.approx(truth, rel=tolerance)


def job(seconds: float, *needs: int, stage: str = "transformer", share: float = 1.0) -> Expected:
    return Expected(stage, "a kind", seconds, frozenset(needs), share)


def test_nothing_is_said_before_a_job_has_said_something():
    estimate = TimeLeft({0: job(10), 1: job(10, 0)})
    assert estimate.seconds({}) is None
    assert estimate.seconds({0: Running(3.0)}) is None
    assert estimate.seconds({0: Running(5.0, 5.0)}) == pytest.approx(15)  # it says itself how long it takes
    estimate.took[0] = 20.0
    assert estimate.seconds({}) == pytest.approx(20)
    estimate.took[1] = 20.0
    assert estimate.seconds({}) == 0


def test_jobs_wait_for_each_other_and_share_the_machine():
    half = {i: job(10, share=0.5) for i in range(5)}
    estimate = TimeLeft(half | {5: job(10, 4, share=0.5)}, took={0: 10.0})
    assert estimate.seconds({1: Running(5.0)}) == pytest.approx(20, abs=6)  # 4 in the first place: 5 waits for it
    assert estimate.seconds({}, at_once=2.0) == pytest.approx(20)


def test_what_a_failed_job_holds_up_is_not_waited_for():
    estimate = TimeLeft({0: job(10), 1: job(10), 2: job(1000, 1), 3: job(1000, 2)}, took={0: 10.0}, lost={1})
    assert estimate.waiting_for({1}) == {2, 3}
    assert estimate.seconds({}) == 0
    estimate.lost.clear()  # it is tried again
    assert estimate.seconds({}) == pytest.approx(2010)


def test_a_kind_not_seen_yet_is_as_its_stage_then_as_the_others():
    jobs = {0: job(10), 1: replace(job(10), kind="another"), 2: job(10, stage="sample"), 3: job(1, stage="report")}
    jobs[3] = replace(jobs[3], kind="")
    estimate = TimeLeft(jobs, took={0: 30.0})
    assert estimate.seconds({}) == pytest.approx(30 + 30 + 3)


def test_known_rates_are_those_of_this_scale_else_stated_or_guessed(project):
    sheet = project / "config/rates.yaml"
    assert time_left.known_rates(load("demo").scale, sheet) is time_left.CPU
    assert "A100" in time_left.known_rates(load("imagenet256").scale, sheet).device
