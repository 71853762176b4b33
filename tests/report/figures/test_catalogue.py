from pathlib import Path

import numpy as np
import pytest
from conftest import edit

from reals.experiment import figure_table
from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.report.figures import catalogue, image_grids, plots


def test_rows_that_differ_in_what_no_label_says_keep_a_line_each(project, monkeypatch, tmp_path):
    sheets = Path("config/sheets/cifar10")
    edit(
        sheets / "runs.tsv", "sit-b4-reals-fixed\tSiT-B/4\treals\tno\tlate", "sit-b4-reals-fixed\tSiT-B/4\treals\tno\tearly,late"
    )
    edit(
        sheets / "evaluations.tsv",
        "late_cfg1.5\tsit-b4-reals\tlate\tsde\t1.5\t-\t-\tall\tall\t0",
        "late_cfg1.5\tsit-b4-reals\tlate\tsde\t1.5\t-\t-\tall\tall\t-",
    )
    with (sheets / "evaluations.tsv").open("a") as sheet:
        sheet.write("fixed_early\tsit-b4-reals-fixed\tearly\tsde\t1\t-\t-\t-\tall\t-\n")
        sheet.write("fixed_guided\tsit-b4-reals-fixed\tlate\tsde\t1.5\t-\t-\tall\tall\t-\n")
    shown = ["fixed_early", "fixed_guided", "sit-b4-reals_late_sde-double", "sit-b4-reals-fixed_late"]
    edit(
        sheets / "figures.yaml",
        "    - sit-b4-sd-vae_early\n",
        "".join(f"    - {name}\n" for name in [*shown, "sit-b4-sd-vae_early"]),
    )
    registry = Registry(load("cifar10"))
    results = {("evaluation", name): {"values": {"fid": 9.0, "recall": 0.5}} for name in registry.evaluations}
    images = {"images": np.zeros((2, 4, 4, 3), np.uint8)}
    monkeypatch.setattr(catalogue, "_arrays", lambda registry, artefact: images)
    found = {}
    for module, name in ((plots, "fid_over_steps"), (plots, "guidance"), (image_grids, "rows_of_images")):
        monkeypatch.setattr(module, name, lambda lines, stem, name=name, **kwargs: found.update({name: lines}))
    for draw in ("fid_over_steps", "guidance", "checkpoints"):
        catalogue.FIGURES[draw](registry, tmp_path / draw, results)
    assert {label for label in found["fid_over_steps"] if "reals" in label} == {
        "SiT-B/4, reals, sit-b4-reals", "SiT-B/4, reals, sit-b4-reals-fixed",
    }  # fmt: skip
    assert "SiT-B/4, sd-vae" in found["fid_over_steps"]  # alone with its label, which stays as it was
    assert {"SiT-B/4, reals, sit-b4-reals, late", "SiT-B/4, reals, sit-b4-reals-fixed, late"} <= set(found["guidance"])
    assert len(found["rows_of_images"]) == len(registry.experiment.figures.checkpoints["evaluations"])
    assert "SiT-B/4\nreals, late\nsit-b4-reals_late_sde-double" in found["rows_of_images"]


@pytest.mark.parametrize(("seeds", "shown"), [(["0,1", "-", "0,1", "0,1"], [9.0] * 4), (["0,1"] * 4, [10.0] * 4)])
def test_the_kl_sweep_is_over_seeds_only_where_all_its_points_are(seeds, shown, project, monkeypatch, tmp_path):
    sheet, names = (
        Path("config/sheets/cifar10/runs.tsv"),
        ("sit-b4-reals-kl0", "sit-b4-reals-kl7e-6", "sit-b4-reals", "sit-b4-reals-kl7e-5"),
    )
    lines = [line.split("\t") for line in sheet.read_text().splitlines()]
    for cells in lines:
        if cells[0] in names:
            cells[5] = seeds[names.index(cells[0])]
    sheet.write_text("".join("\t".join(cells) + "\n" for cells in lines))
    registry = Registry(load("cifar10"))
    both = [{"seed": seed, "id": str(seed), "values": {"fid": 9.0 + 2 * seed}} for seed in (0, 1)]
    results = {("evaluation", f"{name}_late"): {"values": {"fid": 9.0}} | ({"repeats": both} if of != "-" else {})
               for name, of in zip(names, seeds, strict=True)}  # fmt: skip
    results |= {("autoencoder", name): None for name in registry.autoencoders}
    points = []
    monkeypatch.setattr(catalogue.plots, "fid_over_kl_weights", lambda found, stem, fid: points.extend(found))
    catalogue.FIGURES["figure5"](registry, tmp_path / "figure5", results)
    assert [sum(point.fids) / len(point.fids) for point in points] == shown
    repeats = [path for path in figure_table.inputs(registry, "figure5") if "_late-seed1-" in path.parent.name]
    assert len(repeats) == (4 if shown[0] == 10 else 0)
