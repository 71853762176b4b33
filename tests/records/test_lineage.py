"""`reals why` of what is not made yet, of means over seeds, and of what there is no answer to."""

import pytest

from reals import files
from reals.cli.main import main
from reals.experiment.graph import Graph
from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.experiment.repeats import repeats
from reals.records import lineage
from reals.report import results


def test_what_is_not_made_yet_has_a_lineage_too(project, capsys):
    assert main(["why", "table03:sit-b2-reals_400K:fid", "--config", "scale=imagenet256"]) == 0
    printed = capsys.readouterr().out
    assert "is not measured yet (published 27.53)" in printed and "(not here)" in printed
    assert "run sit-b2-reals" in printed and "step 400000" in printed and "teacher dinov2-large-reg" in printed


@pytest.mark.slow
def test_a_cell_that_is_a_mean_says_so_and_has_a_lineage_for_each_seed(project, capsys):
    registry = Registry(load("cifar10"))
    row = next(r for r in registry.experiment.tables["arms"].rows if r.source == "sit-b4-reals_late")
    names = repeats(registry.experiment.evaluations, row.source)
    paths = [registry.folder(registry.evaluations[name]) / "metrics.json" for name in names.values()]
    for path, value in zip(paths[:2], (10.0, 13.0), strict=True):
        path.parent.mkdir(parents=True)
        files.write_json(
            path,
            {
                "kind": "evaluation",
                "name": row.source,
                "id": path.parent.name,
                "values": {"fid": value},
                "protocol": {},
                "provenance": {},
            },
        )
    result = results.load(registry)["evaluation", row.source]
    assert (result["planned"], [repeat["seed"] for repeat in result["repeats"]]) == (5, [0, 1])

    def printed(column: str) -> str:
        assert main(["why", f"arms:{row.key}:{column}", "--config", "scale=cifar10"]) == 0
        return capsys.readouterr().out

    text = printed("fid")
    assert f"arms, row {row.key}, fid = 11.5 ± 2.12132, mean of 2 of 5 seeds (seed 0: 10, seed 1: 13)" in text
    for name, path in zip(list(names.values())[:3], paths, strict=False):  # of many seeds only the first are in full
        assert f"evaluation {registry.evaluations[name].id}" in text and text.count(f"{path}  sha256") == (path in paths[:2])
        run = registry.evaluations[name].needed("samples").needed("run")
        assert f"run {run.id}" in text and f"autoencoder {run.needed('latents').needed('autoencoder').id}" in text
    assert f"again: snakemake {' '.join(map(str, paths))} --config scale=cifar10" in text
    assert "sfid is not measured yet\n" in printed("sfid")
    assert "all columns, 5 seeds\n" in printed("")
    paths[0].unlink()
    assert "fid is not measured yet\n" in printed("fid")  # nor does the table print a mean without the sheet's own row


def test_of_many_seeds_only_the_first_are_in_full(project):
    registry = Registry(load("cifar10"))
    many = [Graph(registry).target(a) for name, a in registry.evaluations.items() if name.startswith("sit-b4-reals_late")][:5]
    lines = list(lineage.lineage(registry, *many))
    assert [line for line in lines if line.startswith("evaluation")][-1] == lines[-3] and lines[-2].strip() == many[-1]
    assert lines[-1] == "(the last 2 in short; `reals why` of a file has the rest)"


@pytest.mark.parametrize(
    ("what", "says"),
    [("table99:a:fid", "there is no table 'table99'"), ("table03:a:fid", "table03 has no row 'a'; known: dit-b2-sd-vae_400K"),
     ("table03:sit-b2-reals_400K:fids", "table03 has no column 'fids'; known: fid, sfid, is"),
     ("table04:biggan-deep:fid", "typed from the paper (6.95); nothing measures it"),
     ("table01:autoencoder:lr", "a setting; it is read from the scale file"),
     ("results/demo/nothing.json", "nothing of scale 'demo' is called so")],
)  # fmt: skip
def test_what_there_is_no_answer_to(project, capsys, what, says):
    assert main(["why", what]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
