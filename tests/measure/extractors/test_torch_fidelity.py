"""torch-fidelity finds the same features and metrics with the same network."""

import pytest
from small import image_bytes, small_cnn

from reals.measure.extractor import extract
from reals.measure.extractors.by_kind import make_extractor
from reals.measure.extractors.small_cnn import (
    save_small_cnn,
)
from reals.measure.extractors.torch_fidelity import register_with_torch_fidelity


def test_torch_fidelity_gets_the_same_features_and_metrics(tmp_path):
    torch_fidelity = pytest.importorskip("torch_fidelity")
    from torch.utils.data import TensorDataset

    from reals.measure.metrics.frechet import Moments, frechet_distance
    from reals.measure.metrics.inception_score import inception_score
    from reals.measure.metrics.manifold import precision_recall

    class Images(TensorDataset):
        def __getitem__(self, index):
            return super().__getitem__(index)[0]

    save_small_cnn(small_cnn(width=4), tmp_path)
    register_with_torch_fidelity("cnn-of-the-test", tmp_path)
    fake, real = image_bytes(60), image_bytes(50, seed=1) // 16 * 17
    theirs = torch_fidelity.calculate_metrics(
        input1=Images(fake), input2=Images(real), feature_extractor="cnn-of-the-test", cuda=False,
        fid=True, isc=True, prc=True, isc_splits=1, samples_shuffle=False, batch_size=20, cache=False,
        save_cpu_ram=True, verbose=False,
    )  # fmt: skip
    extractor = make_extractor({"kind": "small-cnn", "name": "cnn"}, tmp_path)
    f, r = extract(extractor, fake.split(20)), extract(extractor, real.split(20))
    a, b = Moments.of(f.pool).finalize(), Moments.of(r.pool).finalize()
    fid = frechet_distance(a.mu, a.sigma, b.mu, b.sigma)
    assert fid == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)
    assert inception_score(f.logits)[0] == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    precision, recall = precision_recall(r.pool, f.pool)
    assert 0 < precision < 1 and 0 < recall < 1 and precision != recall
    assert (precision, recall) == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)
