"""ADM's network: layout, order, and weights that are verified; on random weights."""

import hashlib

import pytest
import torch
from small import image_bytes, random_inception_weights

from reals.experiment.metric_table import ADM_EXTRACTOR
from reals.measure.extractors.by_kind import make_extractor
from reals.measure.extractors.inception import inception


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory):
    return random_inception_weights(tmp_path_factory.mktemp("weights") / "inception.pth")


@pytest.mark.slow
def test_inception_gives_adms_features_in_one_pass(inception_weights):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    x = image_bytes(2, 48)
    extractor = inception(inception_weights)
    features = extractor.features(x)
    peer = FeatureExtractorInceptionV3("peer", ["2048", "logits_unbiased"], str(inception_weights))
    pool, logits = peer(x)
    assert torch.equal(features.pool, pool) and torch.equal(features.logits, logits)
    widths = [x.shape[1] for x in (features.pool, features.spatial, features.logits)]
    assert widths == [2048, 2023, 1008]

    seen = {}
    peer.Mixed_6c.register_forward_hook(lambda m, i, o: seen.update(input=o.clone()))
    peer(x)
    branch = peer.Mixed_6d.branch1x1
    expected = torch.relu(branch.bn(branch.conv(seen["input"])))[:, :7].permute(0, 2, 3, 1)
    torch.testing.assert_close(features.spatial, expected.reshape(2, -1), rtol=1e-5, atol=1e-6)
    assert 0.1 < (features.spatial > 0).float().mean() < 0.9
    torch.testing.assert_close(features.logits, pool @ peer.fc.weight.T)
    assert extractor.name == ADM_EXTRACTOR and not extractor.network.Mixed_6d.branch1x1._forward_hooks


@pytest.mark.slow
def test_inception_weights_are_verified(inception_weights):
    digest = hashlib.sha256(inception_weights.read_bytes()).hexdigest()
    spec = {"kind": "inception", "weights": inception_weights.name, "sha256": digest}
    assert make_extractor(spec, inception_weights.parent).name == ADM_EXTRACTOR
    with pytest.raises(ValueError, match="fetch the file again"):
        make_extractor({**spec, "sha256": "0" * 64}, inception_weights.parent)
