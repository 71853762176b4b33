"""A table or figure that could not be printed gets one clear line."""

import re

import pytest
from conftest import REPOSITORY
from mistakes import names, one_line

from reals.experiment.load import load

MISTAKES = [
    # file, old text, new text, what the line must say
    ("config/tables/table03.tsv", "43.5", "43,5", "not a number"),
    ("config/tables/table03.tsv", "43.5", "nan", "not a number"),
    ("config/tables.yaml", "table05:", "table55:", "table05' is not defined"),
    ("config/tables.yaml", "metrics: [fid, sfid, is, precision, recall]", "metrics: [fdi, sfid, is, precision, recall]", "config/tables.yaml: table03: evaluation metric 'fdi' is not defined; did you mean 'fid'?"),
    ("config/tables.yaml", "metrics: [sc_crop,", "metrics: [kid,", "table02: autoencoder metric 'kid' is not defined"),
    ("config/tables.yaml", "metrics: [fid, sfid, is, precision, recall]", "metrics: [sfid, is]", "table03: compare prints the change of the FID; add fid"),
    ("config/tables.yaml", "  columns: {stage: Stage}\n", "", "table01: needs source, columns and metrics"),
    ("config/tables.yaml", "columns: {stage: Stage}", "columns: {stage: Stufe γ}", "table01: columns: no LaTeX spelling for 'γ' (U+03B3)"),
    ("config/tables.yaml", "title: Training hyper-parameters.", "title: 表 1.", "table01: title: no LaTeX spelling for '表'"),
    ("config/tables.yaml", "title: Effect of the aligned features on generation (the", "title: α (the", "table12: title: no LaTeX spelling for 'α'"),
    ("config/tables.yaml", "The paper names the augmentations", "The paper ⟪names⟫ the augmentations", "table02: remarks: no LaTeX spelling for '⟪'"),
    ("config/tables.yaml", "metrics: [rfid, psnr, sc_all", "metrics: [rfid, lr, sc_all", "rivals: evaluation metric 'lr' is not defined"),
    ("config/tables.yaml", "printed: {sc_all: SC,", "printed: {sc_al: SC,", "rivals: evaluation metric 'sc_al' is not defined; did you mean 'sc_all'?"),
    ("config/tables.yaml", "printed: {sc_all: SC,", "printed: {sc_all: β,", "rivals: printed: no LaTeX spelling for 'β'"),
    ("config/tables/table03.tsv", "DiT-B/2", "DiT-β/2", "model: no LaTeX spelling for 'β'"),
    ("config/tables/table05.tsv", "+ DINO", "＋ DINO", "config/tables/table05.tsv line"),
    ("config/figures.yaml", "  evaluations:\n    - sit-b2-reals-kl0_400K\n    - sit-b2-reals-kl2e-6_400K\n    - sit-b2-reals-kl1e-5_400K\n    - sit-b2-reals_400K\n    - sit-b2-reals-kl5e-5_400K\n    - sit-b2-reals-kl1e-4_400K\n", "  evaluations: []\n", "figure5.evaluations"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "says"), MISTAKES, ids=names(MISTAKES))
def test_a_mistake_gets_one_line(file, old, new, says, project):
    assert says in one_line(file, old, new)


@pytest.mark.parametrize("scale", ["photographs", "cifar10", "imagenet100", "imagenet256"])
def test_a_table_names_the_model_that_was_trained(scale):
    experiment = load(scale, folder=REPOSITORY / "config")
    named = [
        (table.name, row.key, label, experiment.runs[experiment.evaluations[row.source].run].model)
        for table in experiment.tables.values()
        if table.source == "evaluation"
        for row in table.rows
        if row.source != "literature"
        for label in row.labels.values()
        if re.fullmatch(r"[DS]iT-\w+/\d+", label)
    ]
    assert [line for line in named if line[2] != line[3]] == []
