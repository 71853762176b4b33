"""Metrics files as tables, figures and the page read them."""

from reals import files
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
