"""A row with several seeds stands for as many trainings, down to their metrics."""

from pathlib import Path

import pytest

from reals.experiment import figure_table
from reals.experiment.load import load
from reals.experiment.reading import ConfigError
from reals.experiment.registry import Registry
from reals.experiment.repeats import repeats


def ids() -> dict[tuple[str, str], str]:
    return {(a.kind, a.name): a.id for a in Registry(load("demo")).all()}


def repeated(base: str, reals: str | None = None, run: str | None = None) -> None:
    """Gives the base, reals and the run on reals these seeds, or each its own."""
    reals, run = reals or base, run or base
    for sheet, given in (("autoencoders", {"sd-vae": base, "reals": reals}), ("runs", {"sit-b2-reals": run})):
        path = Path(f"config/{sheet}.tsv")
        lines = path.read_text().splitlines()
        head = next(k for k, line in enumerate(lines) if line.startswith("name\t"))
        for k in range(head, len(lines)):
            name = lines[k].split("\t")[0]
            lines[k] += "\tseeds" if k == head else f"\t{given.get(name, '-')}"
        path.write_text("\n".join(lines) + "\n")


def test_a_row_with_seeds_is_repeated_down_to_its_metrics(project):
    before = ids()
    repeated("0,1,2")
    experiment = load("demo")
    registry = Registry(experiment)
    assert {key: value for key, value in ids().items() if key in before} == before  # the first is what was there
    run = registry.runs["sit-b2-reals-seed2"]
    autoencoder = run.needed("latents").needed("autoencoder")
    assert (run.spec.seed, autoencoder.name, autoencoder.spec.seed) == (2, "reals-seed2", 2)
    assert autoencoder.spec.init == registry.autoencoders["sd-vae-seed2"].id
    samples = registry.evaluations["sit-b2-reals_400K-seed2"].needed("samples")
    assert (samples.spec.seed, samples.needed("run").id) == (2, run.id)
    assert registry.runs["sit-b2-control"].needed("latents").needed("autoencoder").spec.init == before["autoencoder", "sd-vae"]
    assert repeats(experiment.evaluations, "sit-b2-reals_400K") == {
        0: "sit-b2-reals_400K", 1: "sit-b2-reals_400K-seed1", 2: "sit-b2-reals_400K-seed2"
    }  # fmt: skip
    assert repeats(experiment.evaluations, "sit-b2-sd-vae_400K") == {}
    shown = experiment.table_evaluations
    assert "sit-b2-reals_400K-seed1" in shown and "reals-seed1" in experiment.analysed_autoencoders


@pytest.mark.parametrize("seeds", ["1,0,2", "2"])
def test_every_repeat_stands_on_its_own_seed_whatever_their_order(seeds, project):
    repeated("0,1,2", "2,0,1", seeds)
    experiment = load("demo")
    registry = Registry(experiment)
    found = repeats(experiment.runs, "sit-b2-reals") or {2: "sit-b2-reals"}
    assert sorted(found) == sorted(map(int, seeds.split(",")))
    for seed, name in found.items():
        autoencoder = registry.runs[name].needed("latents").needed("autoencoder")
        base = next(a for a in autoencoder.needs if a.kind == "autoencoder")
        assert [a.spec.seed for a in (registry.runs[name], autoencoder, base)] == [seed] * 3
    evaluated = {n: e for n, e in registry.evaluations.items() if n.startswith("sit-b4-reals_400K")}
    assert all(e.needed("samples").spec.seed == e.needed("samples").needed("run").spec.seed for e in evaluated.values())


def test_one_seed_is_that_row_with_another_seed(project):
    repeated("7")
    experiment = load("demo")
    assert Registry(experiment).runs["sit-b2-reals"].spec.seed == 7
    assert not any(row.repeat_of for row in experiment.runs.values())


def test_mistakes_in_seeds_are_one_line(project):
    repeated("1,1")
    with pytest.raises(ConfigError, match=r"autoencoders.tsv line \d+: seeds 1,1 name one twice"):
        load("demo")
    for path in (Path("config/autoencoders.tsv"), Path("config/runs.tsv")):
        path.write_text(path.read_text().replace("\t1,1", "\t0,1"))
    load("demo")
    with pytest.raises(ConfigError, match=r"seeds: base 'sd-vae' of .*imagenet256\.yaml is brought in, not trained"):
        load("imagenet256")


def test_an_evaluation_may_name_some_of_its_runs_seeds(project):
    experiment = load("cifar10")
    assert list(repeats(experiment.evaluations, "sit-b4-reals_late")) == [0, 1, 2, 3, 4]
    assert repeats(experiment.evaluations, "sit-b4-reals_late_ode") == {}
    assert "sit-b4-reals_late_ode-seed1" not in experiment.evaluations
    # A figure of means has no place for it; a table of first seeds names it and the first seed of the others.
    interval = "sit-b4-reals_late_cfg1.5_interval"
    assert interval in experiment.table_evaluations
    assert not any(interval in names for names in figure_table.along_guidance(experiment).values())
    assert experiment.tables["sensitivity"].behind(experiment.evaluations, "sit-b4-reals_late") == {0: "sit-b4-reals_late"}
    assert list(experiment.tables["arms"].behind(experiment.evaluations, "sit-b4-reals_late")) == [0, 1, 2, 3, 4]

    sheet = Path("config/sheets/cifar10/evaluations.tsv")
    text = sheet.read_text()
    line = next(line for line in text.splitlines() if line.startswith("sit-b4-reals_late_ode\t"))
    sheet.write_text(text.replace(line, line.removesuffix("0") + "2,1"))
    registry = Registry(load("cifar10"))
    for name, seed in (("sit-b4-reals_late_ode", 2), ("sit-b4-reals_late_ode-seed1", 1)):
        samples = registry.evaluations[name].needed("samples")
        assert (samples.spec.seed, samples.needed("run").spec.seed) == (seed, seed)
    sheet.write_text(text.replace(line, line.removesuffix("0") + "5"))
    with pytest.raises(ConfigError, match=r"evaluations.tsv line \d+: seeds: run 'sit-b4-reals' has 0,1,2,3,4, not 5; name some"):
        load("cifar10")
