"""Identity: what changes an id, what does not, and that only what depends on a change gets a new one."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import edit

from reals.experiment.artefact import Artefact
from reals.experiment.load import load
from reals.experiment.reading import ConfigError
from reals.experiment.registry import Registry


def ids(scale: str = "demo", **kwargs) -> dict[tuple[str, str], str]:
    return {(a.kind, a.name): a.id for a in Registry(load(scale, **kwargs)).all()}


def changed(before, after) -> set[tuple[str, str]]:
    return {key for key in after if before.get(key) != after[key]}


@pytest.mark.process
def test_ids_are_the_same_in_every_process(project):
    program = "from reals.experiment.load import load; from reals.experiment.registry import Registry; print(Registry(load('demo')).runs['sit-b2-reals'].id)"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=project)
    assert other.stdout.strip() == ids()["run", "sit-b2-reals"]


def test_all_holds_every_artefact_once_after_what_it_is_made_from(project):
    registry = Registry(load("smoke"))
    held = [
        artefact
        for value in vars(registry).values()
        for artefact in (value.values() if isinstance(value, dict) else [value])
        if isinstance(artefact, Artefact)
    ]
    everything = registry.all()
    assert sorted((a.kind, a.name) for a in held) == sorted((a.kind, a.name) for a in everything)
    for place, artefact in enumerate(everything):
        assert all(needed in everything[:place] for needed in artefact.needs), artefact.name


def test_comments_notes_batches_and_paths_change_nothing(project):
    before = ids("cifar10")
    sheet = Path("config/sheets/cifar10/autoencoders.tsv")
    edit(sheet, "# Does", "# Whether")
    edit(sheet, "Section 4.1", "the paper's own")
    edit(Path("config/scales/cifar10.yaml"), "path: data/cifar10", "path: /somewhere/else")
    edit(Path("config/scales/cifar10.yaml"), "batch: 500, shards: 1", "batch: 50, shards: 2")
    assert ids("cifar10") == before


def test_a_new_milestone_keeps_the_run(project):
    before = ids()
    edit(Path("config/runs.tsv"), "sit-l2-reals\tSiT-L/2\treals\tno\t400K", "sit-l2-reals\tSiT-L/2\treals\tno\t400K,1M")
    assert ids() == before


def test_one_lambda_changes_what_depends_on_it_and_nothing_else(project):
    before = ids()
    sheet = Path("config/autoencoders.tsv")
    edit(sheet, "reals-mlp4\tsd-vae\tlarge\tyes\tyes\t4\t2e-5", "reals-mlp4\tsd-vae\tlarge\tyes\tyes\t4\t3e-5")
    assert changed(before, ids()) == {
        ("autoencoder", "reals-mlp4"), ("latents", "reals-mlp4"), ("analysis", "reals-mlp4"), ("run", "sit-b2-reals-mlp4"),
        ("samples", "sit-b2-reals-mlp4_400K"), ("evaluation", "sit-b2-reals-mlp4_400K"),
    }  # fmt: skip
    edit(sheet, "3e-5", "2e-5")
    assert ids() == before


def test_the_base_carries_every_variant(project):
    before = ids()
    edit(Path("config/scales/demo.yaml"), "lambda_k: 1.0e-5", "lambda_k: 2.0e-5")
    kept = {kind for kind, name in set(before) - changed(before, ids())}
    assert kept == {"data", "teacher", "extractor", "features", "reference"}


def test_sampling_settings_leave_training_alone(project):
    before = ids()
    edit(Path("config/scales/demo.yaml"), "sampling: {steps: ", "sampling: {steps: 1")
    assert {kind for kind, _ in changed(before, ids())} == {"samples", "evaluation", "downstream"}


SAMPLERS = {
    # a cell of the sheet -> what is drawn, beside the scale's steps
    "sde": {"sampler": "sde", "form": "sigma", "last": "mean", "last_size": 0.04},
    "sde:form=linear,norm=2,last=tweedie,last_size=0.01,steps=30": {
        "form": "linear", "norm": 2.0, "last": "tweedie", "last_size": 0.01, "steps": 30, "evaluations": 30},
    "sde:last=none": {"last": "none", "last_size": 0.0},
    "heun-sde:steps=30": {"sampler": "heun-sde", "evaluations": 59},
    "ode:steps=20": {"sampler": "ode", "evaluations": 20},
    "euler:steps=20": {"sampler": "euler", "evaluations": 20},
    "dopri5": {"sampler": "dopri5", "evaluations": None},
}  # fmt: skip


@pytest.mark.parametrize("cell", SAMPLERS)
def test_a_row_chooses_its_sampler(cell, project):
    from reals.method.models.transformer import TransformerConfig
    from reals.method.sampling import sampling_of

    before = ids()
    edit(
        Path("config/evaluations.tsv"),
        "sit-l2-sd-vae_400K\tsit-l2-sd-vae\t400K\tsde",
        f"sit-l2-sd-vae_400K\tsit-l2-sd-vae\t400K\t{cell}",
    )
    registry = Registry(load("demo"))
    sampling = sampling_of(registry.samples["sit-l2-sd-vae_400K"].spec)
    assert {key: getattr(sampling, key) for key in SAMPLERS[cell]} == SAMPLERS[cell]
    config = TransformerConfig(
        width=8, depth=1, heads=1, patch=2, latent_channels=4, latent_size=4, classes=2, learn_sigma=True
    )  # fmt: skip
    sampling.check("SiT", config)
    same = {"samples", "evaluation"} if cell != "sde" else set()
    assert {kind for kind, _ in changed(before, ids())} == same


def test_a_run_on_another_path_is_sampled_on_it(project):
    from reals.method.sampling import sampling_of

    before, sheet = ids(), Path("config/runs.tsv")
    lines = [line if line.startswith("#") else f"{line}\t-" for line in sheet.read_text().splitlines()]
    sheet.write_text("\n".join(lines).replace("milestones\t-", "milestones\tpath") + "\n")
    assert ids() == before
    edit(sheet, "sit-b2-control\tSiT-B/2\tcontrol\tno\t400K\t-", "sit-b2-control\tSiT-B/2\tcontrol\tno\t400K\tvp")
    registry = Registry(load("demo"))
    assert registry.runs["sit-b2-control"].spec.interpolant == "vp"
    assert sampling_of(registry.samples["sit-b2-control_400K"].spec).path == "vp"
    assert {name for _, name in changed(before, ids())} == {"sit-b2-control", "sit-b2-control_400K"}
    assert registry.samples["sit-b2-control_400K"].spec.end is None  # its last step covers the rest
    rows = Path("config/evaluations.tsv").read_text()
    for cell in ("ode", "euler", "dopri5", "sde:last=none"):
        Path("config/evaluations.tsv").write_text(rows.replace(
            "sit-b2-control_400K\tsit-b2-control\t400K\tsde", f"sit-b2-control_400K\tsit-b2-control\t400K\t{cell}"
        ).replace("sit-l2-sd-vae_400K\tsit-l2-sd-vae\t400K\tsde", f"sit-l2-sd-vae_400K\tsit-l2-sd-vae\t400K\t{cell}"))  # fmt: skip
        for name, end in (("sit-b2-control_400K", 1 - 1e-3), ("sit-l2-sd-vae_400K", 1)):
            drawn = Registry(load("demo")).samples[name]
            assert sampling_of(drawn.spec).sampler == cell.split(":")[0]
            assert sampling_of(drawn.spec).end == drawn.identity.get("end", 1) == end
    Path("config/evaluations.tsv").write_text(rows)
    edit(sheet, "dit-b2-reals\tDiT-B/2\treals\tno\t400K\t-", "dit-b2-reals\tDiT-B/2\treals\tno\t400K\tgvp")
    with pytest.raises(ConfigError, match="DiT has its own schedule"):
        load("demo")


def test_a_run_may_scale_its_latents_by_another_factor(project):
    before = Registry(load("cifar10", folder=project / "config"))
    fixed, own = before.runs["sit-b4-reals-fixed"], before.runs["sit-b4-reals"]
    assert (fixed.spec.scaling_factor, own.spec.scaling_factor) == (0.18215, None)
    assert fixed.needed("latents").id == own.needed("latents").id
    edit(project / "config/sheets/cifar10/runs.tsv", "\t0.18215", "\t-0.5")
    with pytest.raises(ConfigError, match=r"runs.tsv line .*: scaling_factor: .*greater than 0"):
        load("cifar10", folder=project / "config")


def test_other_data_is_another_experiment(project):
    assert changed(ids("cifar10"), ids("cifar10", data="/x/birds")) == set(ids("cifar10", data="/x/birds"))


def test_two_decoders_of_one_stand_in_are_made_once(project):
    registry = Registry(load("demo"))
    assert registry.autoencoders["sd-vae-mse"] is registry.autoencoders["sd-vae"]
    paper = Registry(load("imagenet256"))
    assert paper.autoencoders["sd-vae-mse"].id != paper.autoencoders["sd-vae"].id


def test_an_id_of_an_older_config_is_refused(project):
    with pytest.raises(ConfigError, match="run snakemake again"):
        Registry(load("demo")).find("run", "sit-b2-reals-0123456789")


def test_lambda_k_is_the_papers_at_its_scale_and_converted_elsewhere(project):
    assert Registry(load("imagenet256")).autoencoders["reals"].spec.lambda_k == 2e-5
    demo = load("demo")
    assert Registry(demo).autoencoders["reals"].spec.lambda_k == pytest.approx(2e-5 * demo.scale.lambda_k_factor)


def test_a_smaller_card_makes_the_same_artefacts_for_half_as_long(project):
    """Apart from samples of the first milestone and what is measured of them: its steps are half as many."""
    day, small = Registry(load("imagenet100")), Registry(load("imagenet100-24gb"))
    for group in ("teachers", "autoencoders", "latents", "runs", "analyses"):
        assert [a.id for a in getattr(day, group).values()] == [a.id for a in getattr(small, group).values()], group
    assert (day.data.id, day.reference.id) == (small.data.id, small.reference.id)
    for earlier, later in (("early", "middle"), ("middle", "late")):
        theirs = small.samples[f"sit-b2-reals_{later}"].spec
        assert theirs == day.samples[f"sit-b2-reals_{earlier}"].spec
