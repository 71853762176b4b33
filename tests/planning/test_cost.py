"""Costs of jobs against the reference's figures and Snakemake's own plan."""

import pytest
from conftest import REPOSITORY, edit, planned

from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.planning import cost
from reals.planning.plan import plan_of
from reals.planning.rates import KINDS, Rates


@pytest.fixture(scope="module")
def paper() -> cost.Costs:
    return cost.Costs(Registry(load("imagenet256", folder=REPOSITORY / "config")))


def flops_of(costs: cost.Costs, stage: str, name: str, upto: int | None = None) -> int:
    return sum(j.flops for j in costs.jobs.values() if (j.stage, j.name) == (stage, name) and (upto is None or j.step <= upto))


@pytest.mark.parametrize(
    ("run", "step", "expected"),
    [("dit-b2-reals", 400_000, 1.41e19), ("sit-b2-reals", 1_000_000, 3.53e19), ("sit-b2-reals", 3_252_963, 1.15e20),
     ("sit-b2-reals", 4_000_000, 1.41e20), ("sit-l2-reals", 400_000, 4.96e19), ("sit-xl2-reals", 400_000, 7.29e19),
     ("sit-xl2-reals", 2_000_000, 3.64e20), ("repa-b2-reals", 400_000, 2.00e19), ("repa-b2-reals", 1_000_000, 5.00e19)],
)  # fmt: skip
def test_runs_cost_what_others_counted(paper, run, step, expected):
    assert flops_of(paper, "transformer", run, step) == pytest.approx(expected, rel=0.01)


def test_one_autoencoder_costs_what_others_counted(paper):
    reals = paper.registry.autoencoders["reals"]
    assert paper.networks.autoencoder_step_flops(reals.spec, reals.teacher) / 2e9 == pytest.approx(1794, rel=0.005)
    assert flops_of(paper, "autoencoder", "reals") == pytest.approx(4.6e19, rel=0.005)


def test_what_the_paper_itself_trained(paper):
    """1.2e21 FLOP without the SD-VAE baselines, which it quotes, without our control and the rivals, and without sampling."""
    experiment = paper.registry.experiment
    not_theirs = {"control", "vf", "eq", "reals-eq"}
    ours = [name for name, row in experiment.runs.items() if row.autoencoder not in {"sd-vae", *not_theirs}]
    trained = sum(flops_of(paper, "transformer", name) for name in ours)
    trained += sum(flops_of(paper, "autoencoder", name) for name in paper.registry.autoencoders if name not in not_theirs)
    assert trained == pytest.approx(1.2e21, rel=0.05)


def test_sampling_and_disk(paper):
    """Hours on an A100 at 55 TFLOP/s: 2.9 at B/2, 30 at XL/2 guided, 26 in the interval; 42 GB a cache, 9.8 GB of samples."""
    published = {"sit-b2-reals_400K": 2.9, "sit-l2-reals_400K": 10.2, "sit-xl2-reals_2M": 15, "sit-xl2-reals_2M_cfg1.5": 30,
                 "sit-xl2-reals_2M_cfg1.8_interval": 26}  # fmt: skip
    for name, hours in published.items():
        job = paper.jobs[paper.graph.target(paper.registry.samples[name])]
        sampling = next(v for kind, v in job.work.items() if kind.work.startswith("sampling"))
        assert sampling / 55e12 / 3600 == pytest.approx(hours, rel=0.02)
        assert job.bytes == pytest.approx(9.83e9, rel=0.001) and job.copies == 8
    assert paper.jobs[paper.graph.target(paper.registry.latents["reals"])].bytes == pytest.approx(42.0e9, rel=0.001)


def test_each_job_costs_what_its_own_precision_does(project):
    """A scale of all precisions, on a device whose rates tell them apart."""
    path = project / "config/scales/smoke.yaml"
    edit(path, "  lpips: {net: alex", "  precision: tf32\n  lpips: {net: alex")
    edit(path, "transformer: {", "transformer: {precision: fp16, ")
    edit(path, "sampling: {", "encoding: {precision: tf32}\nsampling: {precision: bf16, ")
    costs = cost.Costs(Registry(load("smoke")))
    found: dict[str, set[str]] = {}
    for job in costs.jobs.values():
        found.setdefault(job.stage, set()).update(kind.precision for kind in job.work)
    assert found == {
        "data": set(), "teacher": {"fp32"}, "extractor": {"fp32"}, "features": {"tf32"}, "autoencoder": {"tf32"}, "latents": {"tf32"},
        "transformer": {"fp16"}, "sample": {"bf16"}, "reference": {"fp32"}, "evaluate": {"fp32"}, "analyse": {"fp32"},
        "downstream": {"fp32"},
    }  # fmt: skip
    speeds = {"fp32": 1e6, "tf32": 1e7, "bf16": 1e8, "fp16": 1e9}
    device = Rates("a device", "a test", {}, {name: dict.fromkeys(KINDS, speed) for name, speed in speeds.items()})
    planned = plan_of(costs, device, 1, 1)
    for job in planned["jobs"]:
        (speed,) = {speeds[precision] for precision in found[job["stage"]]} or {1.0}
        assert job["device_hours"] == pytest.approx(job["flops"] / speed / 3600)
    assert sum(work["device_hours"] for work in planned["work"]) == pytest.approx(planned["from_nothing"]["device_hours"])


@pytest.mark.workflow
@pytest.mark.parametrize("scale", ["smoke", "imagenet256"])
def test_jobs_are_those_snakemake_would_start(project, scale):
    costs = cost.Costs(Registry(load(scale)))
    wanted = costs.graph.missing(t for targets in costs.graph.shown.values() for t in targets)
    ours: dict[str, int] = {}
    for target in wanted:
        job = costs.jobs[target]
        ours[job.stage] = ours.get(job.stage, 0) + job.copies
    theirs = planned(project, "--config", f"scale={scale}")
    assert ours == {rule: n for rule, n in theirs.items() if rule not in ("all", "tables", "figure", "report")}


def test_heads_are_scored_on_no_more_images_than_are_held_out(project):
    """Of the smoke scale's 400 images 80."""
    scale, found, before = project / "config/scales/smoke.yaml", {}, 20
    for images in (20, 80, 2000):
        edit(scale, f"analysis: {{images: {before}", f"analysis: {{images: {images}")
        jobs = cost.Costs(Registry(load("smoke"))).jobs.values()
        found[images], before = sum(job.flops for job in jobs if job.stage == "downstream"), images
    assert 4 * found[20] == found[80] == found[2000] > 0
