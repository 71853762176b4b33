"""The plan: costs of jobs and tables against the reference's figures, Snakemake's own plan and closed forms."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, edit

from reals import files
from reals.cli import plan
from reals.cli.main import main
from reals.experiment.graph import Graph
from reals.experiment.load import load
from reals.experiment.reading import ConfigError
from reals.experiment.registry import Registry
from reals.method.models.transformer import TransformerConfig
from reals.method.samplers import per_sample_noise
from reals.method.sampling import Sampling
from reals.planning import bench, cost, rates

RATES = rates.Rates("a device", "fp32", "a test", 1e15, {kind: 1e15 for kind in rates.KINDS})


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
    assert paper.autoencoder_step_flops(paper.registry.autoencoders["reals"]) / 2e9 == pytest.approx(1794, rel=0.005)
    assert flops_of(paper, "autoencoder", "reals") == pytest.approx(4.6e19, rel=0.005)


def test_what_the_paper_itself_trained(paper):
    """1.2e21 FLOP without the SD-VAE baselines, which it quotes, without our control, and without sampling."""
    experiment = paper.registry.experiment
    ours = [name for name, row in experiment.runs.items() if row.autoencoder not in ("sd-vae", "control")]
    trained = sum(flops_of(paper, "transformer", name) for name in ours)
    trained += sum(flops_of(paper, "autoencoder", name) for name in paper.registry.autoencoders if name != "control")
    assert trained == pytest.approx(1.2e21, rel=0.05)


def test_sampling_and_disk(paper):
    """Hours on an A100 at 55 TFLOP/s: 2.9 at B/2, 30 at XL/2 guided, 26 in the interval; 42 GB a cache, 9.8 GB of samples."""
    published = {"sit-b2-reals_400K": 2.9, "sit-l2-reals_400K": 10.2, "sit-xl2-reals_2M": 15, "sit-xl2-reals_2M_cfg1.5": 30,
                 "sit-xl2-reals_2M_cfg1.8_interval": 26}  # fmt: skip
    for name, hours in published.items():
        job = paper.jobs[paper.graph.target(paper.registry.samples[name])]
        sampling = next(v for k, v in job.work.items() if k.startswith("sampling"))
        assert sampling / 55e12 / 3600 == pytest.approx(hours, rel=0.02)
        assert job.bytes == pytest.approx(9.83e9, rel=0.001) and job.copies == 8
    assert paper.jobs[paper.graph.target(paper.registry.latents["reals"])].bytes == pytest.approx(42.0e9, rel=0.001)


@pytest.mark.parametrize("sampler", ["sde", "heun-sde", "ode", "euler", "ddpm", "ddim"])
@pytest.mark.parametrize(("cfg", "interval", "time"), [(1.0, None, None), (2.0, None, None), (2.0, (0.1, 0.75), "noise"), (2.0, (0.1, 0.75), "data")])  # fmt: skip
@pytest.mark.parametrize("steps", [10, 250])
def test_network_calls_are_those_the_samplers_make(sampler, cfg, interval, time, steps):
    made = 0

    class Network:
        config = TransformerConfig(16, 1, 2, 2, 1, 2, 3, learn_sigma=True)

        def __call__(self, x, t, y):
            nonlocal made
            made += len(x)
            return torch.zeros(len(x), 2, *x.shape[2:])

    sampling = Sampling(sampler, steps, cfg, "all", interval or (0.0, 1.0), time or "noise")
    network = Network()
    field = sampling.field(network, torch.zeros(1, dtype=torch.int64), null=3)
    sampling.integrate(field, torch.zeros(1, 1, 2, 2), per_sample_noise(0, [0], (1, 2, 2), "test"))
    spec = {"sampler": sampler, "steps": steps, "cfg": cfg, "interval": interval, "interval_time": time,
            "path": {"last_step_size": 0.04} if "sde" in sampler else None}  # fmt: skip
    assert cost.network_calls(spec) == made


def test_the_paper_s_interval_guides_185_of_250_evaluations():
    spec = {
        "sampler": "sde",
        "steps": 250,
        "cfg": 1.8,
        "interval": (0, 0.75),
        "interval_time": "noise",
        "path": {"last_step_size": 0.04},
    }
    assert cost.network_calls(spec) == 250 + 185


@pytest.mark.workflow
@pytest.mark.parametrize("scale", ["smoke", "imagenet256"])
def test_jobs_are_those_snakemake_would_start(project, scale):
    from conftest import planned

    costs = cost.Costs(Registry(load(scale)))
    wanted = costs.graph.missing(t for targets in costs.graph.shown().values() for t in targets)
    ours: dict[str, int] = {}
    for target in wanted:
        job = costs.jobs[target]
        ours[job.stage] = ours.get(job.stage, 0) + job.copies
    theirs = planned(project, "--config", f"scale={scale}")
    assert ours == {rule: n for rule, n in theirs.items() if rule not in ("all", "tables", "figure", "report")}


def test_what_exists_is_free_and_what_is_behind_it_too(project):
    def made() -> dict:
        return {t["table"]: t for t in plan.make(cost.Costs(Registry(load("smoke"))), RATES, 1, 8)["tables"]}

    before = made()
    registry = Registry(load("smoke"))
    costs = cost.Costs(registry)
    for target in costs.graph.shown()["table06"]:
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
    made = plan.make(paper, RATES, 2, 8)
    last = made["tables"][-1]["sum"]
    assert last["flops"] == made["missing"]["flops"] < sum(t["alone"]["flops"] for t in made["tables"])
    assert sum(t["adds"]["flops"] for t in made["tables"]) == last["flops"]
    assert {t["table"]: t["adds"]["flops"] for t in made["tables"]}["table12"] == 0  # repeats Table 5


def test_the_schedule_is_bounded_by_work_and_by_the_longest_path(paper):
    shown = paper.graph.shown()
    targets = paper.graph.missing(t for some in shown.values() for t in some)
    work = sum(RATES.seconds(paper.jobs[t].work) for t in targets)
    longest = cost.schedule(paper, targets, RATES, 0)
    assert cost.schedule(paper, targets, RATES, 1) == pytest.approx(work)
    times = [cost.schedule(paper, targets, RATES, n) for n in (1, 8, 64, 512)]
    assert times == sorted(times, reverse=True)
    for n, seconds in zip((1, 8, 64, 512), times, strict=True):
        assert max(work / n, longest) <= seconds * (1 + 1e-9)
        assert seconds <= work / n * 8 + longest  # Graham's bound, jobs up to eight wide
    assert times[-1] == pytest.approx(longest, rel=0.05)


def test_one_thread_cpus_run_one_job_each(project):
    costs = cost.Costs(Registry(load("smoke")))
    cpu = replace(RATES, threads=1)
    assert cpu.unit == "CPU" and RATES.unit == "GPU"
    assert all(costs.devices_of(job, cpu, 2) == 1 for job in costs.jobs.values())


def test_only_the_stages_that_use_several_gpus_are_faster_on_them(project):
    edit(project / "config/scales/smoke.yaml", "name: smoke\n", "name: smoke\nresources: {default: {gpu: 8}}\n")
    costs = cost.Costs(Registry(load("smoke")))
    assert {job.stage: costs.devices_of(job, RATES, 4) for job in costs.jobs.values()} == {
        "data": 1, "teacher": 1, "extractor": 1, "features": 4, "autoencoder": 4, "latents": 4, "transformer": 4, "sample": 1,
        "reference": 1, "evaluate": 1, "analyse": 1, "downstream": 1,
    }  # fmt: skip
    # Two shards of samples hold all GPUs in turn and work on one.
    sample = next(job for job in costs.jobs.values() if job.stage == "sample" and job.copies == 2)
    seconds = RATES.seconds(sample.work)
    assert cost.schedule(costs, {sample.target}, RATES, 8) == pytest.approx(seconds)
    assert cost.schedule(costs, {sample.target}, RATES, 16) == pytest.approx(seconds / 2)
    planned = {job["target"]: job["wall_hours"] for job in plan.make(costs, RATES, 2, 8)["jobs"]}
    assert planned[sample.target] == pytest.approx(seconds / 2 / 3600)


def test_a_size_that_was_not_measured_is_not_taken_for_a_teacher():
    measured = {"transformer B": 3e12, "sampling B": 2e12, "sampling teacher": 1e12}
    found = replace(RATES, by_kind=measured)
    assert found.rate("sampling XL") == 2e12 and found.rate("transformer XL") == 3e12 and found.rate("sampling teacher") == 1e12
    assert replace(RATES, by_kind={"sampling B": 2e12}).rate("sampling teacher") == 2e12
    with pytest.raises(ConfigError, match="none for 'sampling XL'; run `reals measure` again"):
        replace(RATES, by_kind={"sampling teacher": 1e12}).rate("sampling XL")


@pytest.mark.parametrize(
    ("given", "held_out"),
    [({"source": "cifar10"}, 10_000), ({"source": "cifar10", "images_per_class": 24}, 240),
     ({"source": "folder", "expected_classes": 100, "expected_images": 90_000}, 5_000),
     ({"source": "folder", "expected_classes": 100, "expected_images": 2_400, "images_per_class": 24}, 2_400),
     ({"source": "procedural", "images_per_class": 24}, 96)],
)  # fmt: skip
def test_held_out_images_are_as_few_as_the_scale_takes(project, given, held_out):
    experiment = load("smoke")
    data = experiment.scale.data.model_copy(update={"held_out": None, "images_per_class": None, **given})
    scale = experiment.scale.model_copy(update={"data": data})
    assert cost.counts(Registry(replace(experiment, scale=scale))).held_out == held_out


def test_expected_images_are_those_left_for_training(project):
    experiment = load("smoke")
    data = experiment.scale.data.model_copy(
        update={"source": "folder", "held_out": 0.1, "images_per_class": None, "expected_images": 9_000, "expected_classes": 10}
    )
    found = cost.counts(Registry(replace(experiment, scale=experiment.scale.model_copy(update={"data": data}))))
    assert (found.train, found.held_out) == (9_000, 1_000)


def test_the_command_prints_and_gives_json(project, capsys):
    assert main(["plan", "--config", "scale=imagenet256", "--gpu", "h100", "--nodes", "2"]) == 0
    text = capsys.readouterr().out
    assert "2 x 8 NVIDIA H100 SXM, bf16 (rates: stated in config/rates.yaml)" in text
    assert "on 16 GPUs" in text and "table03" in text and "sit-xl2-reals" in text
    assert main(["plan", "--config", "scale=imagenet256", "--gpu", "a100", "--precision", "tf32", "--json"]) == 0
    stated = json.loads(capsys.readouterr().out)
    b = next(j for j in stated["jobs"] if (j["name"], j["step"]) == ("sit-b2-reals", 400_000))
    assert b["device_hours"] == pytest.approx(76, rel=0.01)  # the reference's figure at 52 TFLOP/s


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--gpu", "h200"], "h200: no rates of this device at scale demo; run `reals measure --config scale=demo`"),
     ([], "no rates of this device"),
     (["--gpu", "h100", "--precision", "fp32"], "no rates for precision 'fp32'; known: bf16, tf32"),
     (["--config", "scael=demo"], "scael=demo: expected KEY=VALUE with a key of scale, data"),
     (["--config", "scale=imagenet"], "scale 'imagenet' is not defined; did you mean 'imagenet256'"),
     (["--gpu", "h100", "--nodes", "0"], "--nodes 0: expected at least 1")],
)  # fmt: skip
def test_mistakes_get_one_line(project, capsys, arguments, says):
    assert main(["plan", *arguments]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_a_table_of_rates_with_a_hole(project, capsys):
    path = project / "config/rates.yaml"
    path.write_text(path.read_text().replace("sampling: 120, ", ""))
    assert main(["plan", "--gpu", "a100", "--precision", "bf16"]) == 2
    assert "a100: bf16: needs a number of TFLOP/s for sampling" in capsys.readouterr().err


def test_a_device_that_is_slow_at_a_type_is_not_kept_busy_with_large_products(monkeypatch):
    monkeypatch.setattr(bench, "SQUARES", (8, 10**7))  # the second would take 400 TB
    monkeypatch.setattr(bench, "STEP_SECONDS", 0.0)
    assert bench.peak(bench.Bench(torch.device("cpu"), 1, 0.1), "fp32") > 0


def test_a_measurement_feeds_the_plan(project, capsys, monkeypatch):
    monkeypatch.setattr(bench, "SQUARES", (64,))
    arguments = ["--config", "scale=smoke", "--threads", "1", "--precision", "fp32", "--seconds", "0.001"]
    assert main(["measure", *arguments]) == 0
    printed = capsys.readouterr().out
    device = rates.this_device(1)
    path = rates.measured_path(device)
    stored = files.read_json(path)
    measured = stored["scales"]["smoke"]["tflops"]["fp32"]
    sizes = {row.size for row in load("smoke").runs.values()}
    expected = {f"{kind} {size}" for kind in ("transformer", "sampling") for size in sizes}
    assert set(measured) == expected | {"autoencoder", "encoding", "sampling teacher"}
    assert all(rate > 0 for rate in measured.values()) and str(path) in printed
    assert stored["versions"]["torch"] == torch.__version__ and stored["threads"] == 1
    assert rates.peak(device, "fp32") == stored["peak_tflops"]["fp32"] * 1e12
    assert rates.peak(device, "bf16") is None and rates.peak("another", "fp32") is None
    assert main(["plan", "--config", "scale=smoke", "--per-node", "2"]) == 0
    assert f"measured {stored['date']}" in capsys.readouterr().out


def test_the_log_s_mfu_is_flops_over_the_measured_peak(project):
    from reals.planning import flops
    from reals.stages.transformer import utilisation

    config_ = TransformerConfig(16, 1, 2, 2, 4, 8, 3, learn_sigma=True)
    device = rates.this_device(torch.get_num_threads())
    assert utilisation(config_, 32, "fp32", 2, 0.5) is None
    files.write_json(rates.measured_path(device), {"device": device, "peak_tflops": {"fp32": 0.25}, "scales": {}})
    expected = 3 * flops.transformer_flops(config_) * 32 / (0.5 * 2 * 0.25e12)
    assert utilisation(config_, 32, "fp32", 2, 0.5) == pytest.approx(expected)
    assert utilisation(config_, 32, "bf16", 2, 0.5) is None
