"""Metrics files as tables, figures and the page read them."""

from reals import files
from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.report import results


def test_a_file_made_before_extractors_were_the_one_term_is_read_under_the_keys_since(tmp_path):
    protocol = {"samples": 24, "feature network": "digits-cnn", "second judge": "other-cnn", "seeds": "sampling 0"}
    files.write_json(tmp_path / "metrics.json", {"kind": "evaluation", "values": {"fid": 1.0}, "protocol": protocol})
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
