"""The sheets and scales that ship are right, and each mistake in them gets one clear line."""

from pathlib import Path

import pytest
from conftest import edit

from reals.experiment.load import load
from reals.experiment.reading import ConfigError

SCALES = ["demo", "smoke", "cifar10", "imagenet256"]


@pytest.mark.parametrize("scale", SCALES)
def test_shipped_scales_load(scale, project):
    assert load(scale).scale.name == scale


def test_the_paper_scale_is_the_paper(project):
    s = load("imagenet256").scale
    assert (s.autoencoder.lr, s.autoencoder.batch, s.autoencoder.steps) == (5e-5, 64, 10 * 1281167 // 64 - 2)  # Table 1
    assert (s.transformer.lr, s.transformer.batch, s.transformer.ema) == (1e-4, 256, 0.9999)
    assert (s.sampling.samples, s.sampling.steps, s.latent_size, s.latent.channels) == (50_000, 250, 32, 4)
    assert s.milestones == {"400K": 400_000, "1M": 1_000_000, "2M": 2_000_000, "3.25M": 3_252_963, "4M": 4_000_000}
    assert {k: (m.width, m.depth, m.heads, m.repa_depth) for k, m in s.models.items()} == {
        "B": (768, 12, 12, 4), "L": (1024, 24, 16, 8), "XL": (1152, 28, 16, 8)}  # fmt: skip
    assert s.teachers["large"].model == "vit_large_patch14_reg4_dinov2.lvd142m"


@pytest.mark.parametrize("scale", SCALES)
def test_sizes_keep_their_order(scale, project):
    m = load(scale).scale.models
    weights = [12 * m[k].width ** 2 * m[k].depth for k in ("B", "L", "XL")]
    assert weights == sorted(weights)
    assert len(set(weights)) == 3


MISTAKES = [
    # file, old text, new text, what the line must say
    ("config/scales/demo.yaml", "resolution: 32", "resolution: 30", "resolution 30 does not divide"),
    ("config/scales/demo.yaml", "features: cached", "feature: cached", "feature: unknown key"),
    ("config/scales/demo.yaml", "features: cached", "features: sometimes", "features"),
    ("config/scales/demo.yaml", "patch: 4, steps", "patch: 8, steps", "the latents are 8 wide"),
    ("config/scales/demo.yaml", "factor: 4", "factor: 8", "block_out_channels"),
    ("config/scales/demo.yaml", "resolution: 32", "resolution: 16", "LPIPS"),
    ("config/scales/demo.yaml", "400K: 400,", "400K: -400,", "milestones.400K"),
    ("config/scales/demo.yaml", "latent: {channels", "latent: {chanels", "chanels"),
    ("config/scales/demo.yaml", "name: demo", "name: [demo", "line"),
    ("config/scales/demo.yaml", "features: cached", "features: cached\nfeatures: online", "key 'features' stands there twice"),
    ("config/scales/demo.yaml", "latent: {channels: 4,", "latent: {channels: 4, channels: 8,", "key 'channels' stands there twice"),
    ("config/scales/demo.yaml", "batch: 250, shards: 1}", "batch: 250, shards: 5000}", "some would be empty"),
    ("config/scales/demo.yaml", "seed: 11", "seed: -11", "teachers.large"),
    ("config/scales/demo.yaml", "features: cached", "features: cached\nseeds: {analysis: -1}", "seeds.analysis"),
    ("config/scales/demo.yaml", "lr: 5.0e-4", "lr: .inf", "autoencoder.lr"),
    ("config/scales/demo.yaml", "sampling: {steps: 30", "sampling: {steps: 1200", "DiT's chain has 1000"),
    ("config/runs.tsv", "dit-b2-sd-vae\tDiT-B/2\tsd-vae", "dit-b2-sd-vae\tDiT-B/2\tsd-vea", "did you mean 'sd-vae'?"),
    ("config/runs.tsv", "dit-b2-sd-vae\tDiT-B/2\tsd-vae", "dit-b2-sd-vae\tDiT-B/2\t", "autoencoder"),
    ("config/runs.tsv", "400K,1M,2M", "1M,400K,2M", "must ascend"),
    ("config/runs.tsv", "400K,1M,2M", "400K,1M,7M", "'7M' is not defined"),
    ("config/runs.tsv", "DiT-B/2", "DiT-H/2", "model"),
    ("config/runs.tsv", "sd-vae\tno\t400K", "sd-vae\tmaybe\t400K", "repa"),
    ("config/runs.tsv", "name\tmodel", "name\tmodle", "modle: unknown key"),
    ("config/runs.tsv", "dit-b2-reals\tDiT", "dit-b2-sd-vae\tDiT", "names are unique"),
    ("config/runs.tsv", "dit-b2-reals\tDiT-B/2\treals\tno\t400K", "dit-b2-reals DiT-B/2 reals no 400K", "cells"),
    ("config/autoencoders.tsv", "large\tyes\tyes\t2\t2e-5", "huge\tyes\tyes\t2\t2e-5", "huge"),
    ("config/autoencoders.tsv", "large\tyes\tyes\t2\t2e-5", "large\tyes\tyes\t2\t-1", "lambda_k"),
    ("config/autoencoders.tsv", "large\tyes\tyes\t2\t2e-5", "large\tyes\tyes\t0\t2e-5", "layers"),
    ("config/autoencoders.tsv", "reals\tsd-vae", "reals\treals", "circle"),
    ("config/autoencoders.tsv", "large\tyes\tyes\t2\t2e-5", "-\tyes\tyes\t2\t2e-5", "needs a teacher"),
    ("config/evaluations.tsv", "sit-b2-sd-vae_400K\tsit-b2-sd-vae\t400K\tsde", "sit-b2-sd-vae_400K\tsit-b2-sd-vae\t2M\tsde", "milestone '2M'"),
    ("config/evaluations.tsv", "400K\tddpm\t1\t", "400K\tsde\t1\t", "DiT takes ddpm"),
    *[
        ("config/evaluations.tsv", "sit-b2-sd-vae\t400K\tsde", f"sit-b2-sd-vae\t400K\t{sampler}", says)
        for sampler, says in [
            ("sd", "sampler.name"), ("ddim", "SiT takes sde, heun-sde, ode, euler, dopri5"), ("ode:form=linear", "form means nothing to ode"),
            ("sde:form=cubic", "sampler.form"), ("sde:forms=linear", "unknown key"), ("sde:form=SBDM", "infinite at t = 0"),
            ("sde:steps=1", "sampler.steps"), ("ode:steps=51", "an even number"), ("sde:last=none,last_size=0.04", "last=none"),
            ("heun-sde:last=none", "infinite"), ("sde:last_size=0", "last_size=0"), ("dopri5:steps=9", "no settings"), ("sde:norm", "norm"),
        ]
    ],
    ("config/evaluations.tsv", "400K\tddpm\t1\t", "400K\tddim:steps=2000\t1\t", "1000"),
    ("config/scales/demo.yaml", "pr_reference: 1000", "second: {kind: small-cnn, name: digits-cnn, width: 8, steps: 1, batch: 8, lr: 1, seed: 1}\n  pr_reference: 1000", "a second one has its own"),
    ("config/evaluations.tsv", "0,0.75", "0.75,0", "interval"),
    ("config/evaluations.tsv", "1.5\t-\t-\t3", "1.5\t-\t-\t-", "cfg_channels"),
    ("config/tables/table03.tsv", "\tsit-b2-reals_1M\t", "\tsit-b2-reals_5M\t", "'sit-b2-reals_5M' is not defined"),
    ("config/tables/table03.tsv", "43.5", "43,5", "not a number"),
    ("config/tables/table03.tsv", "43.5", "nan", "not a number"),
    ("config/tables.yaml", "table05:", "table55:", "table05' is not defined"),
    ("config/figures.yaml", "sd-vae", "sd-vea", "did you mean 'sd-vae'"),
    ("config/tables.yaml", "metrics: [fid, sfid, is, precision, recall]", "metrics: [fdi, sfid, is, precision, recall]", "config/tables.yaml: table03: evaluation metric 'fdi' is not defined; did you mean 'fid'?"),
    ("config/tables.yaml", "metrics: [sc_crop,", "metrics: [kid,", "table02: autoencoder metric 'kid' is not defined"),
    ("config/tables.yaml", "metrics: [fid, sfid, is, precision, recall]", "metrics: [sfid, is]", "table03: compare prints the change of the FID; add fid"),
    ("config/tables.yaml", "  columns: {stage: Stage}\n", "", "table01: needs source, columns and metrics"),
    ("config/tables.yaml", "columns: {stage: Stage}", "columns: {stage: Stufe γ}", "table01: columns: no LaTeX spelling for 'γ' (U+03B3)"),
    ("config/tables.yaml", "title: Training hyper-parameters.", "title: 表 1.", "table01: title: no LaTeX spelling for '表'"),
    ("config/tables.yaml", "title: Effect of the aligned features on generation (the", "title: α (the", "table12: title: no LaTeX spelling for 'α'"),
    ("config/tables.yaml", "The paper names the augmentations", "The paper ⟪names⟫ the augmentations", "table02: remarks: no LaTeX spelling for '⟪'"),
    ("config/tables/table03.tsv", "DiT-B/2", "DiT-β/2", "model: no LaTeX spelling for 'β'"),
    ("config/tables/table05.tsv", "+ DINO", "＋ DINO", "config/tables/table05.tsv line"),
    ("config/scales/demo.yaml", "description: 5,000", "description: ５,000", "config/scales/demo.yaml: description: no LaTeX spelling"),
    ("config/scales/demo.yaml", "400K: 400,", "400Κ: 400,", "milestones.400Κ: no LaTeX spelling"),
    ("config/figures.yaml", "  evaluations:\n    - sit-b2-reals-kl0_400K\n    - sit-b2-reals-kl2e-6_400K\n    - sit-b2-reals-kl1e-5_400K\n    - sit-b2-reals_400K\n    - sit-b2-reals-kl5e-5_400K\n    - sit-b2-reals-kl1e-4_400K\n", "  evaluations: []\n", "figure5.evaluations"),
    ("config/figures.yaml", "    - sit-b2-reals-kl0_400K\n", "    - sit-b2-sd-vae_400K\n", "figure5: sit-b2-sd-vae_400K is of autoencoder 'sd-vae', which has no lambda_k"),
    ("config/figures.yaml", "    - sit-b2-reals-kl0_400K\n", "    - sit-b2-reals-kl1e-5_400K\n", "figure5: lambda_k is 2e-06 at sit-b2-reals-kl2e-6_400K after 1e-05; order them"),
    ("config/figures.yaml", "    - sit-b2-reals-kl0_400K\n", "    - sit-b2-control_400K\n    - sit-b2-reals_400K\n", "figure5: lambda_k is 2e-05 at sit-b2-reals_400K after 2e-05"),
    ("config/paper.yaml", "lambda_1: 0.9", "lambda1: 0.9", "lambda1"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "says"), MISTAKES, ids=[f"{m[0].split('/')[-1]}:{m[2][:24]}" for m in MISTAKES])
def test_a_mistake_gets_one_line(file, old, new, says, project):
    load("imagenet256"), load("demo")
    edit(Path(file), old, new)
    scale = "demo"
    if "scales/demo" in file and says == "line":
        says = "demo.yaml"
    with pytest.raises(ConfigError) as caught:
        load(scale)
    message = str(caught.value)
    assert says in message
    assert "\n" not in message
    assert len(message) < 400


def test_a_file_that_is_not_utf8_gets_one_line(project):
    path = Path("config/runs.tsv")
    path.write_bytes(path.read_bytes() + "# é\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"config/runs.tsv line \d+: not UTF-8 text"):
        load("demo")


def test_unknown_scale_names_the_nearest(project):
    with pytest.raises(ConfigError, match="did you mean 'imagenet256'"):
        load("imagenet25")


def test_own_data_by_path_gets_its_own_name(project):
    scale = load("cifar10", data="/photos/birds").scale
    assert (scale.data.name, scale.data.source, scale.data.path) == ("birds", "folder", "/photos/birds")


def test_a_scale_may_bring_its_own_sheets(project):
    own = Path("config/sheets/two-arms")
    own.mkdir(parents=True)
    edit(Path("config/scales/demo.yaml"), "name: demo\n", "name: demo\nsheets: two-arms\n")
    with pytest.raises(ConfigError, match="sheets: folder of config/sheets 'two-arms' is not defined"):
        load("demo")
    rows = Path("config/runs.tsv").read_text().splitlines()
    (own / "runs.tsv").write_text("\n".join(line for line in rows if "dit-b2-reals" not in line) + "\n")
    with pytest.raises(ConfigError, match=r"config/evaluations.tsv line \d+: run 'dit-b2-reals' is not defined"):
        load("demo")
    cells = [line for line in Path("config/evaluations.tsv").read_text().splitlines() if "dit-b2-reals" not in line]
    (own / "evaluations.tsv").write_text("\n".join(cells) + "\n")
    (own / "tables").mkdir()
    (own / "tables.yaml").write_text("arms: {title: Arms, columns: {arm: Arm}, metrics: [fid], source: evaluation}\n")
    (own / "tables/arms.tsv").write_text(
        "key\tsection\tarm\tsource\tbaseline\tfid\tnote\nreals\t-\tReaLS\tsit-b2-reals_400K\t-\t-\t-\n"
    )
    experiment = load("demo")
    assert list(experiment.tables) == ["arms"] and "dit-b2-reals" not in experiment.runs
    assert experiment.autoencoders.keys() == load("smoke").autoencoders.keys()  # what it does not bring is config's own
    (own / "run.tsv").touch()
    with pytest.raises(
        ConfigError, match=r"config/sheets/two-arms/run.tsv: sheet 'run.tsv' is not defined; did you mean 'runs.tsv'"
    ):
        load("demo")


def test_heun_needs_an_even_number_of_the_scales_evaluations(project):
    edit(Path("config/evaluations.tsv"), "sit-b2-sd-vae\t400K\tsde", "sit-b2-sd-vae\t400K\tode")
    load("demo")
    edit(Path("config/scales/demo.yaml"), "sampling: {steps: 30", "sampling: {steps: 31")
    with pytest.raises(ConfigError, match="Heun needs two a step; write ode:steps=32"):
        load("demo")
