"""What the plan says of memory: it grows with the batch, what lowers it does, and counts are kept on disk."""

import json
from dataclasses import replace
from functools import cache

import pytest

from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.planning import footprint, memory
from reals.planning.memory import CARDS, Memory, Setting, card, needed, rows


@pytest.fixture(scope="module")
def registry():
    return Registry(load("smoke"))


@pytest.fixture(scope="module")
def paper():
    return Registry(load("imagenet256"))


def run_of(registry, repa=False, **changes):
    name = next(r.name for r in registry.experiment.runs.values() if r.repa is repa)
    artefact = registry.runs[name]
    return replace(artefact, spec=replace(artefact.spec, **changes))


def aligned(registry, **changes):
    artefact = next(a for a in registry.autoencoders.values() if getattr(a.spec, "align", None))
    return replace(artefact, spec=replace(artefact.spec, **changes))


@pytest.mark.slow
def test_the_runs_memory_is_what_the_batch_and_the_depth_make_it(registry):
    @cache
    def peak(batch=64, depth=2, accumulate=1, checkpointed=False, gpus=1):
        run = run_of(registry, batch=batch, depth=depth, width=64, heads=2)
        return footprint.transformer(registry, run, gpus, accumulate, checkpointed)

    once, twice, thrice = (peak(depth=d) for d in (2, 4, 6))
    assert thrice - twice == pytest.approx(twice - once, rel=0.01)  # linear in depth
    assert peak(256) - peak(192) == pytest.approx(peak(192) - peak(128), rel=0.02)  # and in the batch
    assert peak(accumulate=4) < 0.7 * once and peak(depth=6, checkpointed=True) < 0.7 * thrice
    assert peak(accumulate=8) <= peak(accumulate=4)
    assert peak(64, gpus=2) < once < peak(128, gpus=2)


@pytest.mark.slow
def test_several_gpus_hold_the_exchange_s_gradients_all_the_time(registry):
    run = run_of(registry, batch=256, width=128, depth=4, heads=2)
    parameters = 4 * 4 * 18 * 128**2  # bytes, about: 12 width^2 of a block's products, 6 of its modulation
    alone = footprint.transformer(registry, run, 1, 1, False)
    shared = footprint.transformer(registry, replace(run, spec=replace(run.spec, batch=512)), 2, 1, False)
    assert 0.7 * parameters < shared - alone < 1.5 * parameters


@pytest.mark.slow
def test_an_autoencoder_s_memory(registry):
    def peak(batch=512, accumulate=1, gpus=1, **changes):
        return footprint.autoencoder(registry, aligned(registry, batch=batch, **changes), gpus, accumulate)

    one, two, three = (peak(batch) for batch in (512, 1024, 1536))
    assert three - two == pytest.approx(two - one, rel=0.01) and two > 1.5 * one
    assert peak(1536, accumulate=4) < 0.6 * three
    assert peak(1024, gpus=2) >= one and peak(lambda_p=0.0) < one


@pytest.mark.slow
def test_the_paper_s_largest(paper):
    """26.15 GB of SiT-XL in bf16 at 32 a GPU and 137.9 of the autoencoder's batch of 64, as counted on FakeTensors of device cuda."""
    xl = paper.runs["sit-xl2-reals"]
    run = replace(xl, spec=replace(xl.spec, batch=32))
    assert footprint.transformer(paper, run, 1, 1, False) / 1e9 == pytest.approx(26.15, rel=0.01)
    reals = paper.autoencoders["reals"]
    assert footprint.autoencoder(paper, reals, 1, 1) / 1e9 == pytest.approx(137.9, rel=0.01)
    assert footprint.encoding(paper, next(iter(paper.latents.values())), 64) < 15e9


@pytest.mark.slow
def test_the_scale_for_a_small_card_fits_it():
    """The largest of its work, in as many parts as its file says, with what a count of tensors cannot see."""
    day = Registry(load("imagenet100-24gb"))
    parts = Memory(day).setting.accumulate
    assert 15 < needed(footprint.autoencoder(day, day.autoencoders["reals"], 1, parts), 1) < 24


@pytest.fixture
def weighed(registry, tmp_path, monkeypatch):
    """Counts that take no time: 1 GB and 1 GB for each 8 rows of a share, a fourth of that with checkpoints; every call is noted."""
    asked = []

    def count(kind, batch, gpus, accumulate, checkpointed=False):
        asked.append(kind)
        return int(1e9 + batch / gpus / accumulate / 8 * 1e9 / (4 if checkpointed else 1))

    monkeypatch.setattr(footprint, "transformer", lambda r, a, *how: count("run", a.spec.batch, *how))
    monkeypatch.setattr(footprint, "autoencoder", lambda r, a, *how: count("autoencoder", a.spec.batch, *how))
    monkeypatch.setattr(footprint, "sampling", lambda r, a, n: 10**9)
    monkeypatch.setattr(footprint, "encoding", lambda r, a, batch: 10**9)
    return asked, Memory(registry, tmp_path / "kept" / "memory.json")


def test_the_setting_that_fits(registry, weighed):
    _, planned = weighed
    run = run_of(registry, batch=256)  # 33 GB, 17 with 2 shares, 9 with 4, ...
    assert planned.fitting(run, 1, 80) == Setting()
    assert planned.fitting(run, 1, needed(9e9, 1) + 0.01) == Setting(accumulate=4)
    assert planned.fitting(run, 8, needed(5e9, 8) + 0.01) == Setting()
    smallest = needed(1e9 + 1e9 / 8, 1)
    assert planned.fitting(run, 1, smallest + 0.001) == Setting(accumulate=256)
    assert planned.fitting(run, 1, smallest - 0.01) == Setting(accumulate=128, checkpoint_blocks=True)
    assert planned.fitting(run, 1, 1.0) is None
    assert planned.fitting(aligned(registry), 1, 1.0) is None
    assert card(23.9) == 24 and card(24.1) == 32 and card(1000) is None and list(CARDS) == sorted(CARDS)


def test_counts_are_kept_for_this_code_alone(registry, weighed, monkeypatch):
    asked, planned = weighed
    first = list(rows(planned, 8, 80))
    counted = len(asked)
    assert counted and list(rows(Memory(registry, planned.store), 8, 80)) == first
    assert len(asked) == counted
    kept = json.loads(planned.store.read_text())
    planned.store.write_text(json.dumps(kept | {"of": "another torch"}))
    list(rows(Memory(registry, planned.store), 8, 80))
    assert len(asked) == 2 * counted
    for damaged in ("", "{", "[]", '{"of": 1}', '{"bytes": {}}'):
        planned.store.write_text(damaged)
        assert list(rows(Memory(registry, planned.store), 8, 80)) == first
    (planned.store.parent / "file").write_text("")
    assert list(rows(Memory(registry, planned.store.parent / "file" / "memory.json"), 8, 80)) == first  # cannot be written


@pytest.mark.slow
def test_rivals_are_counted_by_their_own_steps(registry):
    """VA-VAE's weight keeps the graph for one more pass; EQ-VAE's plain step is the largest of its steps."""
    plain, vf = (registry.autoencoders[name] for name in ("control", "vf"))
    eq = replace(registry.autoencoders["eq"], spec=replace(registry.autoencoders["eq"].spec, equivariance=None))
    large = {"batch": 256}
    peaks = [
        footprint.autoencoder(registry, replace(a, spec=replace(a.spec, **large)), 1, 1)
        for a in (plain, vf, registry.autoencoders["eq"], eq)
    ]
    assert peaks[1] > peaks[0] and peaks[2] == peaks[3]


def test_each_distinct_training_has_a_row(registry, paper, weighed):
    found = list(rows(weighed[1], 8, None))
    assert {r["stage"] for r in found} == {"autoencoder", "transformer", "sample", "latents"}
    named = [name for r in found for name in r["artefacts"]]
    trained = [a.name for a in registry.autoencoders.values() if hasattr(a.spec, "batch")]
    assert sorted(named) == sorted([*registry.runs, *trained])
    assert all(r["fits"] is None and not r["remedies"] for r in found)
    what = [name for name, _ in Memory(paper).distinct()]
    assert {"SiT-B", "SiT-L", "SiT-XL", "DiT-B", "REPA, SiT-B", "autoencoder", "autoencoder, VA-VAE's loss"} == set(what)


def test_what_does_not_fit_has_a_remedy(registry, weighed):
    tight = [r for r in rows(weighed[1], 1, 3.0) if r["stage"] == "transformer"]
    assert tight and all(not r["fits"] for r in tight)
    for row in tight:
        for remedy in row["remedies"]:
            artefact = registry.runs[row["artefacts"][0]]
            assert weighed[1].training(artefact, 1, Setting(**remedy)) <= 3.0
    assert any(r["remedies"] for r in tight)
    assert memory.STORE.parent.name == "results"
