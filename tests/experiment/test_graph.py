"""The job graph: what each job is made from, and what is left to make."""

from pathlib import Path

import pytest
from conftest import REPOSITORY

from reals.experiment import figure_table
from reals.experiment.graph import Graph
from reals.experiment.load import load
from reals.experiment.registry import Registry

SCALES = ("demo", "photographs", "cifar10", "imagenet100", "imagenet256", "smoke")


def graph_of(scale: str) -> Graph:
    return Graph(Registry(load(scale, folder=REPOSITORY / "config")))


@pytest.fixture
def graph(project) -> Graph:
    """Of the smoke scale, in an empty folder."""
    return graph_of("smoke")


def make(*targets: str) -> None:
    for target in targets:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).touch()


@pytest.mark.parametrize("scale", SCALES)
def test_every_job_is_made_from_jobs_before_it(scale):
    graph, seen = graph_of(scale), set()
    for target, job in graph.jobs.items():
        assert job.target == target
        if job.artefact.kind != "data":
            assert job.needs or job.artefact.kind in ("teacher", "extractor", "autoencoder"), (
                "only what is brought in needs nothing"
            )
        assert set(job.needs) <= seen
        seen.add(target)
    files = [file for job in graph.jobs.values() for file in job.outputs]
    assert len(files) == len(set(files)), "two jobs make one file"


@pytest.mark.parametrize("scale", SCALES)
def test_tables_and_figures_want_what_the_workflow_makes_for_them(scale):
    """`reals plan` counts the targets of `shown`; the rule `all` asks for `metrics` and what figures are drawn from."""
    graph = graph_of(scale)
    shown = {target for targets in graph.shown.values() for target in targets}
    drawn = {file.with_name("metrics.json") for name in figure_table.figures(graph.registry) for file in graph.drawn_from(name)}
    assert shown == {str(file) for file in {*graph.metrics(), *drawn}}
    assert graph.behind(shown) >= shown


def test_a_table_on_request_is_wanted_by_nobody_unasked(graph):
    registry, behind = graph.registry, set(graph.behind_table("rivals"))
    mine = {graph.target(registry.evaluations[f"sit-b2-{arm}_400K"]) for arm in ("vf", "eq", "reals-eq")}
    mine |= {graph.target(registry.analyses[arm]) for arm in ("vf", "eq", "reals-eq")}
    assert mine < behind and graph.target(registry.analyses["sd-vae"]) in behind
    assert mine.isdisjoint(graph.wanted) and mine.isdisjoint(map(str, graph.metrics()))
    assert "rivals" not in graph.shown and registry.autoencoders["vf"].id not in graph.to_make()


def test_a_milestone_continues_the_one_before(graph):
    run = graph.registry.runs["sit-b2-reals"]
    steps = graph.registry.milestones(run)
    first, second = (graph.job(run, step) for step in steps[:2])
    latents, data = graph.target(run.needed("latents")), graph.target(graph.registry.data)
    assert first.needs == (latents, data)
    assert second.needs == (latents, data, first.target)
    between = graph.job(run, steps[1] - 1)  # a step no row asks for
    assert between.needs == second.needs and between.target.endswith(f"step_{steps[1] - 1}.safetensors")


def test_an_evaluation_waits_for_all_shards_and_a_head_for_the_gallery_alone(graph):
    registry = graph.registry
    head = next(iter(registry.downstream.values()))
    samples = head.needed("samples")
    shards = registry.outputs(samples)
    assert graph.inputs(graph.job(registry.evaluations[samples.name]))[: len(shards)] == shards
    read = graph.inputs(graph.job(head))
    assert shards[0] in read and not set(shards[1:]) & set(read)
    assert registry.outputs(samples.needed("autoencoder"))[0] in read  # which decodes the gallery


def test_a_shard_is_a_job_of_its_own_with_the_inputs_of_all(graph):
    samples = graph.registry.samples["sit-b2-sd-vae_400K"]
    whole, shard = graph.job(samples), graph.job(samples, 1)
    assert shard.outputs == whole.outputs[1:2] and shard.needs == whole.needs
    make(shard.target)
    assert shard.done and not whole.done


def test_nothing_behind_what_exists_is_missing(graph):
    table = graph.shown["table06"]
    assert graph.missing(table) == graph.behind(table)
    evaluation = graph.jobs[table[0]]
    make(*map(str, evaluation.outputs))
    left = graph.missing(table)
    assert evaluation.target not in left and graph.missing([evaluation.target]) == set()
    assert left < graph.behind(table)


def test_artefacts_are_to_make_until_all_their_files_exist(graph):
    registry = graph.registry
    assert registry.data.id in graph.to_make()
    make(*(str(output) for artefact in registry.all() for output in registry.outputs(artefact)))
    assert Graph(registry).to_make() == set()
