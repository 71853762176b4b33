"""The small CNN: layout, order, cost, and what it can learn."""

import pytest
import torch
from small import image_bytes, small_cnn

from reals.measure.extractors.small_cnn import (
    SmallCNN,
    SmallCNNConfig,
    initialise_small_cnn,
    load_small_cnn,
    save_small_cnn,
    small_cnn_extractor,
)
from reals.rng import generator


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
    for name, content in (("model.safetensors", b"x"), ("config.json", b"{"), ("config.json", b'{"x": 1}')):
        save_small_cnn(model, tmp_path / "cnn")
        (tmp_path / "cnn" / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"cnn: holds no whole small CNN"):
            load_small_cnn(tmp_path / "cnn")
