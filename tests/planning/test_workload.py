"""The tasks that are timed and weighed are those the stages train: same classes, same shapes, same losses."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from reals.data.readers import CachedFeatures
from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.method.models.teacher import OnlineFeatures
from reals.planning.imagined import unwritten
from reals.planning.stand_ins import FeaturesStandIn
from reals.planning.workload import Sources, Workload
from reals.training.processes import Processes


@pytest.fixture(scope="module")
def registry():
    return Registry(load("smoke"))


@pytest.fixture(scope="module")
def workload(registry):
    return Workload(registry, Processes())


def run_of(registry, **wanted):
    """The first run whose row says so."""
    rows = registry.experiment.runs.values()
    return registry.runs[next(r.name for r in rows if all(getattr(r, k) == v for k, v in wanted.items()))]


def online(artefact, registry):
    """The artefact as it is at a scale whose teacher runs along."""
    spec = replace(artefact.spec, features=None, teacher=artefact.teacher.id)
    needs = (*(n for n in artefact.needs if n.kind != "features"), artefact.teacher)
    return replace(artefact, spec=spec, needs=needs)


@pytest.mark.parametrize("row", [{"family": "DiT"}, {"family": "SiT", "repa": False}, {"repa": True}], ids=str)
def test_a_run_s_step(registry, workload, row):
    task = workload.transformer(run_of(registry, **row), batch=4)
    record = task.update(0)
    assert torch.isfinite(torch.as_tensor(record["loss"])) and record["grad_norm"] > 0
    assert task.spec.batch == 4 and isinstance(task.teacher, CachedFeatures) is bool(row.get("repa"))


def test_repa_with_a_teacher_that_runs_along(registry, workload):
    task = workload.transformer(online(run_of(registry, repa=True), registry), batch=4)
    assert isinstance(task.teacher, OnlineFeatures)
    assert task.batch(0).pixels.shape == (4, 3, 32, 32)
    assert torch.isfinite(torch.as_tensor(task.update(0)["loss"]))


@pytest.mark.parametrize("teacher", ["cached", "online"])
def test_an_autoencoder_s_step_has_every_term(registry, workload, teacher):
    made = next(a for a in registry.autoencoders.values() if getattr(a.spec, "align", None))
    task = workload.autoencoder(made if teacher == "cached" else online(made, registry), batch=4)
    record = task.update(task.spec.gan.start)
    assert {"align", "lpips", "kl", "discriminator"} <= {name.split("_")[0] for name in record}
    assert all(torch.isfinite(torch.as_tensor(value)) for value in record.values())


def test_what_is_at_hand_is_read(registry):
    at_hand = FeaturesStandIn(8, 2, 8, 64)
    task = Workload(registry, Processes(), Sources(features=at_hand)).transformer(run_of(registry, repa=True), batch=4)
    assert task.teacher is at_hand


@pytest.mark.slow
def test_the_paper_s_tasks_make_a_step_without_memory(monkeypatch):
    monkeypatch.setattr(nn.Module, "to", lambda self, *args, **kwargs: self)  # torch cannot move fake parameters, which are there
    registry = Registry(load("imagenet256"))
    with FakeTensorMode(allow_non_fake_inputs=True):
        workload = Workload(registry, Processes(), make=unwritten)
        largest, repa = (workload.transformer(run_of(registry, **w), 2) for w in ({"size": "XL"}, {"repa": True}))
        for task in (largest, repa):
            with unset_fake_temporarily():  # batches are made in threads, which may not share a fake mode
                task.labels = torch.zeros(len(task.latents), dtype=torch.int64)
        aligned = workload.autoencoder(next(a for a in registry.autoencoders.values() if getattr(a.spec, "align", None)), batch=2)
        terms = set().union(*(task.update(0) for task in (largest, repa, aligned)))
    assert sum(p.numel() for p in largest.model.parameters()) > 6.7e8
    assert sum(p.numel() for p in aligned.teacher.teacher.network.parameters()) > 3e8
    assert {"velocity", "projection", "align", "lpips", "discriminator"} <= terms
