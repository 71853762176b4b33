"""Metrics files as tables, figures and the page read them."""

import pytest

from reals import files
from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.report import results

WHOLE = {"kind": "evaluation", "name": "a", "id": "a-0", "values": {"fid": 1.0}, "protocol": {}, "provenance": {}}


def test_a_file_made_before_extractors_were_the_one_term_is_read_under_the_keys_since(tmp_path):
    protocol = {"samples": 24, "feature network": "digits-cnn", "second judge": "other-cnn", "seeds": "sampling 0"}
    files.write_json(tmp_path / "metrics.json", WHOLE | {"id": tmp_path.name, "protocol": protocol})
    found = results.read(tmp_path / "metrics.json")["protocol"]
    assert list(found.items()) == [
        ("samples", 24),
        ("feature extractor", "digits-cnn"),
        ("second extractor", "other-cnn"),
        ("seeds", "sampling 0"),
    ]


def test_a_row_whose_first_seed_is_to_come_is_shown_by_the_later_ones():
    """Seeds are run in any order; what is shown by one seed still waits for the first."""
    registry = Registry(load("cifar10"))

    def result(name: str, fid: float) -> results.Result:
        return results.Result(kind="evaluation", name=name, id=f"{name}-0", values={"fid": fid}, protocol={}, provenance={})

    found: dict[tuple[str, str], results.Result | None] = {
        **{("evaluation", name): None for name in registry.evaluations},
        **{("autoencoder", name): None for name in registry.analyses},
    }
    name = "sit-b4-reals_late"
    for seed, fid in ((1, 20.0), (3, 22.0)):
        found["evaluation", f"{name}-seed{seed}"] = result(f"{name}-seed{seed}", fid)
    shown = results.with_later_seeds(registry, found)["evaluation", name]
    assert found["evaluation", name] is None
    assert shown is not None and shown["name"] == f"{name}-seed1" and shown["planned"] == 5
    assert results.by_seed(shown, "fid") == {1: 20.0, 3: 22.0}
    assert results.with_later_seeds(registry, found)["evaluation", "sit-b4-control_late"] is None


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"values": {"fid": None}}, "fid is None, no number"),
        ({"values": {"fid": "3.2"}}, "fid is '3.2', no number"),
        ({"values": [1.0]}, r"values is \[1.0\]"),
        ({"protocol": None}, "protocol is None"),
        ({"provenance": "x"}, "provenance is 'x'"),
        ({"id": "b-0"}, "it is of b-0, and was copied here"),
    ],
)
def test_a_metrics_file_that_is_not_one_of_its_folder_is_refused(part, said, tmp_path):
    (tmp_path / "a-0").mkdir()
    path = tmp_path / "a-0" / "metrics.json"
    files.write_json(path, WHOLE | part)
    with pytest.raises(files.MissingArtefact, match=f"{path}: damaged .{said}.; delete it and run `snakemake"):
        results.read(path)


def test_a_metric_that_a_row_lacks_is_no_value():
    one = results.Result(kind="evaluation", name="a", id="a-0", values={"fid": 1.0}, protocol={}, provenance={})
    assert results.values(one, "recall") == [] and results.values(one, "fid") == [1.0]
