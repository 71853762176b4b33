"""Feature extractors: layout, order, refusal, and agreement with torch-fidelity on random weights."""

import hashlib

import pytest
import torch
from small import random_inception_weights

from reals.experiment.metric_table import ADM_EXTRACTOR
from reals.measure.extractor import extract
from reals.measure.extractors.by_kind import make_extractor
from reals.measure.extractors.inception import inception
from reals.measure.extractors.small_cnn import (
    SmallCNN,
    SmallCNNConfig,
    initialise_small_cnn,
    load_small_cnn,
    save_small_cnn,
    small_cnn_extractor,
)
from reals.measure.extractors.torch_fidelity import register_with_torch_fidelity
from reals.measure.extractors.vision_transformers import Vit, dinov2_positions, vision_transformer
from reals.rng import generator


def image_bytes(n: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), generator=generator(seed, "bytes"), dtype=torch.uint8)


def small_cnn(**config) -> SmallCNN:
    model = SmallCNN(SmallCNNConfig(**{"classes": 10, **config}))
    initialise_small_cnn(model, generator(0, "judge"))
    model.train()
    with torch.no_grad():
        model(image_bytes(16, model.config.resolution))  # moves the running statistics off their start
    return model.eval()


@pytest.mark.parametrize("width", [2, 3, 4, 8])
def test_narrow_small_cnns_train_in_channels_last_order(width):
    """A strided 1x1 convolution there ends the process on CPUs without AVX-512."""
    model = SmallCNN(SmallCNNConfig(classes=10, width=width))
    initialise_small_cnn(model, generator(0, "judge"))
    model.to(memory_format=torch.channels_last)
    images = image_bytes(4).contiguous(memory_format=torch.channels_last)
    model(images).square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in model.parameters())


def test_the_small_cnn_has_the_stated_sizes():
    extractor = small_cnn_extractor(small_cnn(), "digits-cnn")
    features = extractor.features(image_bytes(3))
    assert [tuple(x.shape) for x in (features.pool, features.spatial, features.logits)] == [
        (3, 64),
        (3, 448),
        (3, 10),
    ]
    assert all(x.dtype == torch.float32 for x in (features.pool, features.spatial, features.logits))
    assert not features.pool.requires_grad
    torch.testing.assert_close(features.logits, extractor.network(image_bytes(3)).detach())


@pytest.mark.parametrize(("resolution", "mmac"), [(32, 13.7), (64, 15.0)])
def test_the_small_cnn_is_cheap(resolution, mmac):
    model, count = small_cnn(resolution=resolution), [0]
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda m, i, o: count.append(o[0].numel() * m.weight[0].numel()))
    model(image_bytes(1, resolution))
    assert sum(count) / 1e6 == pytest.approx(mmac, rel=0.1)


@pytest.mark.parametrize(("resolution", "side"), [(16, 4), (24, 6), (32, 8), (40, 10), (64, 8), (96, 8), (128, 8), (256, 8)])
def test_the_small_cnn_takes_other_sizes_and_sees_every_pixel(resolution, side):
    model = small_cnn(resolution=resolution, width=4)
    pool, middle, _ = model.activations(image_bytes(2, resolution))
    assert pool.shape == (2, 16) and middle.shape == (2, 16, side, side)
    weights = model.stem[0].weight
    seen = torch.nn.functional.conv_transpose2d(
        torch.ones(1, 4, *[resolution // model.stem[0].stride[0]] * 2), torch.ones_like(weights),
        stride=model.stem[0].stride, padding=model.stem[0].padding, output_padding=model.stem[0].stride[0] - 1,
    )  # fmt: skip
    assert (seen > 0).all()


def test_the_small_cnn_of_32_and_64_pixels_is_what_it_was():
    # Noted before other sizes were let in.
    for resolution, kernel in ((32, (3, 3)), (64, (3, 3))):
        model = SmallCNN(SmallCNNConfig(classes=10, resolution=resolution))
        assert sum(p.numel() for p in model.parameters()) == 156_250
        assert model.stem[0].kernel_size == kernel and model.stem[0].stride == (resolution // 32,) * 2


def test_spatial_features_are_row_column_channel():
    model = small_cnn()
    features = small_cnn_extractor(model, "x").features(image_bytes(2))
    middle = model.activations(image_bytes(2))[1]
    torch.testing.assert_close(features.spatial.view(2, 8, 8, 7)[1, 3, 5], middle[1, :7, 3, 5].detach())


def test_weights_are_a_function_of_the_generator():
    a, b = small_cnn().state_dict(), small_cnn().state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert (a["head.bias"] == 0).all() and 0.005 < a["head.weight"].std() < 0.02


def test_channels_last_changes_nothing():
    model = small_cnn()
    plain = model(image_bytes(4))
    last = model.to(memory_format=torch.channels_last)(image_bytes(4).to(memory_format=torch.channels_last))
    torch.testing.assert_close(plain, last, rtol=1e-4, atol=1e-6)


def test_the_small_cnn_can_learn():
    model = small_cnn(width=4, classes=2)
    model.train()
    x, y = image_bytes(16), torch.arange(16) % 2
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_the_small_cnn_survives_its_folder(tmp_path):
    model = small_cnn(classes=3, width=8, blocks=2, resolution=64)
    save_small_cnn(model, tmp_path / "cnn")
    again = load_small_cnn(tmp_path / "cnn")
    assert again.config == model.config
    assert torch.equal(again(image_bytes(2, 64)), model(image_bytes(2, 64)))
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    with pytest.raises(ValueError, match=r"config\.json: not found"):
        load_small_cnn(tmp_path)


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


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory):
    return random_inception_weights(tmp_path_factory.mktemp("weights") / "inception.pth")


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


def test_inception_weights_are_verified(inception_weights):
    digest = hashlib.sha256(inception_weights.read_bytes()).hexdigest()
    spec = {"kind": "inception", "weights": inception_weights.name, "sha256": digest}
    assert make_extractor(spec, inception_weights.parent).name == ADM_EXTRACTOR
    with pytest.raises(ValueError, match="fetch the file again"):
        make_extractor({**spec, "sha256": "0" * 64}, inception_weights.parent)


# Vision transformers


def test_positions_are_resampled_as_dinov2_does():
    # The authors' own code gave the same bits for this draw; here: no antialiasing, no mixing of rows and columns.
    positions = torch.randn(1, 1 + 37 * 37, 4, generator=generator(0, "positions"))
    found = dinov2_positions(positions, 16)
    assert found.shape == (1, 257, 4) and torch.equal(found[:, 0], positions[:, 0])
    smooth = torch.linspace(0, 1, 37).view(1, 37, 1, 1).expand(1, 37, 37, 4).reshape(1, -1, 4)
    ramp = dinov2_positions(torch.cat([positions[:, :1], smooth], 1), 16)[0, 1:].view(16, 16, 4)
    assert (ramp.std(dim=1) < 1e-6).all() and (ramp.diff(dim=0) > 0).all()


@pytest.mark.parametrize("projected", [False, True])
def test_a_vision_transformer_gives_pool_features_alone(tmp_path, projected):
    timm = pytest.importorskip("timm")
    vit = Vit("small", "vit_tiny_patch16_224.augreg_in21k_ft_in1k", projected=projected)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        peer = timm.create_model(vit.timm, num_classes=1000 if projected else 0).eval()
    torch.save(peer.state_dict(), tmp_path / "w.pth")
    extractor = vision_transformer(vit, tmp_path / "w.pth", hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest())
    x = image_bytes(2, 48)
    features = extractor.features(x)
    resized = torch.nn.functional.interpolate(x.float(), size=(224, 224), mode="bicubic", antialias=True)
    with torch.no_grad():
        expected = peer((resized / 255 - 0.5) / 0.5)
    torch.testing.assert_close(features.pool, expected, rtol=1e-3, atol=1e-4)
    assert features.spatial.shape == features.logits.shape == (2, 0)
    assert extractor.sha256 == vision_transformer(vit, tmp_path / "w.pth").sha256
    with pytest.raises(ValueError, match="fetch the file again"):
        vision_transformer(vit, tmp_path / "w.pth", "0" * 64)
    (tmp_path / "w.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"small: .*w\.pth cannot be loaded"):
        vision_transformer(vit, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="no such file"):
        vision_transformer(vit, tmp_path / "nowhere.pth")
