"""What is told to be made again, and what it would have gone on from."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from reals import files
from reals.cli import forcing
from reals.cli.forcing import Forced
from reals.experiment.graph import Graph
from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.records import lineage, provenance


@pytest.fixture
def graph(project) -> Graph:
    return Graph(Registry(load("smoke")))


def settings(*forcerun: str, everything: bool = False, targets: tuple[str, ...] | None = None) -> SimpleNamespace:
    """Snakemake's, of -R FORCERUN, -F (``everything``) or -f TARGETS."""
    return SimpleNamespace(
        forceall=everything, forcerun=set(forcerun), forcetargets=targets is not None, targets=set(targets or ("elsewhere",))
    )


def make(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)


def test_a_rule_or_a_file_and_all_that_is_made_from_it_is_made_again(graph):
    registry = graph.registry
    run, other = registry.runs["sit-b2-reals"], registry.runs["sit-b2-control"]
    first, second = (graph.job(run, step) for step in registry.milestones(run)[:2])
    evaluation, latents = graph.job(registry.evaluations["sit-b2-reals_400K"]), graph.job(registry.latents["reals"])
    everything, rule = Forced(graph, settings(everything=True)), Forced(graph, settings("transformer"))
    assert all(everything.named(job) for job in graph.jobs.values())
    assert rule.named(first) and rule.named(second) and rule.outdated(evaluation) and rule.outdated(second)
    assert not (rule.named(evaluation) or rule.named(latents) or rule.outdated(latents))
    for told in (settings(second.target), settings(f"./{second.target}"), settings(targets=(second.target,))):
        forced = Forced(graph, told)
        assert forced.named(second) and not (forced.named(first) or forced.outdated(first) or forced.outdated(evaluation))
        assert forced.outdated(graph.job(registry.evaluations["sit-b2-reals_1M"]))
        assert not forced.outdated(graph.job(other, 2))
    for told in (settings(), settings("tables"), settings(targets=())):
        forced = Forced(graph, told)
        assert not any(forced.named(job) or forced.outdated(job) for job in graph.jobs.values())


def test_one_shard_is_made_again_without_the_others(graph):
    samples = graph.registry.samples["sit-b2-reals_400K"]
    forced = Forced(graph, settings(str(graph.registry.files(samples, 1)[0])))
    assert [forced.named(graph.job(samples, shard)) for shard in (0, 1)] == [False, True]


def test_a_finished_job_has_inputs_only_where_it_is_made_again(graph):
    registry = graph.registry
    job, behind = (graph.job(registry.evaluations["sit-b2-reals_400K"]), graph.job(registry.samples["sit-b2-reals_400K"]))

    def inputs(told: SimpleNamespace, of: object) -> object:
        return Forced(graph, told).inputs(of, lambda paths: ("ancient", paths))

    assert inputs(settings(), job) == ("ancient", graph.inputs(job))
    make(*job.outputs)
    assert inputs(settings(), job) == inputs(settings("tables"), job) == []
    assert inputs(settings("sample"), job) == graph.inputs(job)  # not ancient: Snakemake makes it again after them
    assert inputs(settings(everything=True), job) == graph.inputs(job)
    assert inputs(settings("evaluate"), job) == ("ancient", graph.inputs(job))
    assert inputs(settings("sample"), behind) == ("ancient", graph.inputs(behind))


INDEX = ("index.json", "made/index.json.json")
LEFT = {
    "data": (*INDEX, "crops/index.json"),
    "teacher": (*INDEX, "log.jsonl", "state/step_00000004.pt", "state/step_00000004.sha256"),
    "extractor": (*INDEX, "log.jsonl", "state/step_00000004.pt"),
    "autoencoder": (*INDEX, "log.jsonl", "state/step_00000003.pt"),
    "features": (*INDEX, "shard_00000.json", "shard_00001.json"),
    "latents": (*INDEX, "shard_00000.json"),
    "reference": INDEX,
    "samples": ("parts/001_000012_12.npz", "made/shard_001.npy.json"),
    "evaluation": ("metrics.json", "pictures.npz"),
}


@pytest.mark.parametrize("kind", LEFT)
def test_what_was_made_and_what_a_job_would_go_on_from_is_renamed_and_all_else_stays(graph, kind, monkeypatch):
    monkeypatch.setattr(forcing.time, "strftime", lambda form: "20261130-120000")
    registry = graph.registry
    artefact = next(a for a in registry.all() if a.kind == kind)
    folder, number = registry.folder(artefact), 1 if kind == "samples" else None
    stays = [folder / name for name in ("spec.json", "patch_00000.npy", "parts/000_000000_12.npz", "shard_000.npy")]
    make(*(folder / name for name in LEFT[kind]), *stays)
    aside = folder.parent / "set_aside/20261130-120000"
    assert forcing.set_aside(registry, [graph.job(artefact, number)]) == [aside]
    for name in LEFT[kind]:
        assert not (folder / name).exists() and (aside / folder.name / name).read_text() == Path(name).name
    assert all(path.exists() for path in stays)
    assert forcing.set_aside(registry, [graph.job(artefact, number)]) == []


def test_samples_are_deleted(graph):
    samples = graph.registry.samples["sit-b2-reals_400K"]
    first, second = graph.registry.outputs(samples)
    make(first, second)
    assert forcing.set_aside(graph.registry, [graph.job(samples, 1)]) == []
    assert first.exists() and not second.exists()


def test_a_run_begins_anew_after_its_last_milestone_that_stays(graph):
    registry = graph.registry
    run = registry.runs["sit-b2-reals"]
    folder, states = registry.folder(run), registry.states(run)
    first, second, third = registry.milestones(run)[:3]

    def lay_out() -> None:
        make(*(states / f"step_{s:08d}.{kind}" for s in (first, second, second + 1) for kind in ("pt", "sha256")))
        make(*(folder / f"step_{s}.safetensors" for s in (first, second)), folder / f"made/step_{second}.safetensors.json")
        (folder / "log.jsonl").write_text(
            "".join(json.dumps({"step": s, "loss": 1.0}) + "\n" for s in (first, second, second + 1))
        )

    lay_out()
    # As where `-R step_<second>` is told: the third is made from it.
    forcing.set_aside(registry, [graph.job(run, third), graph.job(run, second)])
    assert sorted(path.name for path in states.iterdir()) == [f"step_{first:08d}.pt", f"step_{first:08d}.sha256"]
    assert sorted(path.name for path in folder.iterdir()) == ["log.jsonl", "made", f"step_{first}.safetensors"]
    assert [row["step"] for row in files.read_lines(folder / "log.jsonl")] == [first]
    [aside] = (folder.parent / provenance.SET_ASIDE).iterdir()
    assert len(files.read_lines(aside / run.id / "log.jsonl")) == 3
    assert (aside / run.id / f"made/step_{second}.safetensors.json").exists()
    lay_out()
    forcing.set_aside(registry, [graph.job(run, step) for step in (first, second, third)])
    assert list(states.iterdir()) == [] and [path.name for path in folder.iterdir()] == ["made"]


def test_a_training_that_still_runs_is_not_taken_its_states(graph, monkeypatch):
    monkeypatch.setattr(forcing, "LOCK_SECONDS", 0.0)
    registry = graph.registry
    run = registry.runs["sit-b2-reals"]
    state = registry.states(run) / "step_00000002.pt"
    make(state)
    with files.lock(registry.folder(run) / ".lock", "the run"), pytest.raises(files.Busy, match="wait for it or stop it"):
        forcing.set_aside(registry, [graph.job(run, 2)])
    assert state.exists()


def test_only_planned_jobs_are_set_aside_and_a_line_says_where(graph):
    registry = graph.registry
    run, other = (registry.runs[name] for name in ("sit-b2-reals", "sit-b2-control"))
    make(*(registry.states(each) / "step_00000002.pt" for each in (run, other)))
    planned = [("transformer", {"id": run.id, "step": "2"}), ("all", {})]
    assert Forced(graph, settings()).begin_anew(planned) == []
    assert Forced(graph, settings("data")).begin_anew([("data", {"id": registry.data.id})]) == []  # there is nothing of it
    [said] = Forced(graph, settings("autoencoder")).begin_anew(planned)  # what the run is trained on is made again
    assert said.startswith("made again from the start, as told; what was there before is now in ")
    assert "results/smoke/states/set_aside/" in said
    assert not any(registry.states(run).iterdir()) and any(registry.states(other).iterdir())


def test_what_is_made_from_it_and_not_asked_for_is_named(graph):
    """As with -f, --until and --omit-from; else a table would show the old numbers beside the new network without a word."""
    registry = graph.registry
    run, evaluation = registry.runs["sit-b2-reals"], registry.evaluations["sit-b2-reals_400K"]
    step = evaluation.needed("samples").spec.step
    first = graph.job(run, step)
    forced = Forced(graph, settings(targets=(first.target,)))
    planned = [("transformer", {"id": run.id, "step": str(step)})]
    assert forced.begin_anew(planned) == []
    metrics = registry.outputs(evaluation)
    make(first.outputs[0], *metrics)
    aside, said = forced.begin_anew(planned)
    assert aside.startswith("made again from the start, as told") and said.endswith(
        f"so still of before: {metrics[0]}; delete all of that to have it made again too"
    )
    make(first.outputs[0])
    assert any(
        "made again, as told: that of before is results/smoke/runs/set_aside/" in x
        for x in lineage.lineage(registry, first.target)
    )
    samples = [("sample", {"id": evaluation.needed("samples").id, "shard": str(shard)}) for shard in range(2)]
    every = [*planned, *samples, ("evaluate", {evaluation.stage.wildcard: evaluation.id})]
    assert not any("still of before" in line for line in Forced(graph, settings("transformer")).begin_anew(every))
