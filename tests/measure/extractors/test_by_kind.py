"""An extractor is found by its kind; bad specs are refused."""

import pytest
from small import image_bytes, small_cnn

from reals.experiment.metric_table import ADM_EXTRACTOR
from reals.measure.extractors.by_kind import make_extractor
from reals.measure.extractors.small_cnn import (
    save_small_cnn,
)


def test_specs_are_dispatched_and_bad_ones_refused(tmp_path):
    save_small_cnn(small_cnn(), tmp_path)
    extractor = make_extractor({"kind": "small-cnn", "name": "digits-cnn"}, tmp_path)
    assert extractor.name == "digits-cnn" and extractor.features(image_bytes(1)).pool.shape == (1, 64)
    for spec, folder, message in (
        ({"kind": "vgg"}, tmp_path, "kind 'vgg'"),
        ({"kind": "small-cnn"}, tmp_path, r"keys \[\], expected \['name'\]"),
        ({"kind": "small-cnn", "name": "x", "width": "3"}, tmp_path, "expected"),
        ({"kind": "small-cnn", "name": "x"}, None, "no folder"),
        ({"kind": "small-cnn", "name": ADM_EXTRACTOR}, tmp_path, "ADM's extractor"),
        ({"kind": "inception", "weights": "w.pth"}, tmp_path, "sha256"),
    ):
        with pytest.raises(ValueError, match=message):
            make_extractor(spec, folder)
