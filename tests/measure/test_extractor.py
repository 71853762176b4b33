"""One pass over images in any batches; what is no image is refused."""

import pytest
import torch
from small import image_bytes, small_cnn

from reals.measure.extractor import extract
from reals.measure.extractors.small_cnn import (
    SmallCNNConfig,
    small_cnn_extractor,
)


def test_one_pass_over_batches_equals_one_batch():
    extractor = small_cnn_extractor(small_cnn(), "digits-cnn")
    x, done = image_bytes(10), []
    whole, split = extract(extractor, [x]), extract(extractor, iter(x.split(4)), progress=done.append)
    assert done == [4, 8, 10] and len(split) == 10
    for name in ("pool", "spatial", "logits"):
        torch.testing.assert_close(getattr(whole, name), getattr(split, name), rtol=1e-4, atol=1e-5)


def test_bad_images_are_refused():
    extractor = small_cnn_extractor(small_cnn(), "digits-cnn")
    with pytest.raises(ValueError, match="float32"):
        extract(extractor, [image_bytes(2).float()])
    with pytest.raises(ValueError, match=r"images are \(64, 64\), expected \(32, 32\)"):
        extract(extractor, [image_bytes(2, 64)])
    with pytest.raises(ValueError, match="no images"):
        extract(extractor, [])
    for resolution in (8, 20):
        with pytest.raises(ValueError, match=f"resolution {resolution}, expected at least 16 and a multiple of 8"):
            SmallCNNConfig(classes=10, resolution=resolution)
