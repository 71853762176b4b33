"""Counted from sizes equals counted by torch's flop counter on the real networks, at tiny and at the paper's sizes."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from small import ALIGN, AUTOENCODER, VF, task
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.method.equivariance import AUTHORS, Transformation
from reals.method.models import autoencoder, discriminator, teacher
from reals.method.models import autoencoder as models
from reals.method.models.transformer import FULL_SIZES, Transformer, TransformerConfig
from reals.planning import flops
from reals.planning.cost import Costs


def counted(function, *arguments) -> int:
    """What torch counts; on the CPU only the plain form of attention is counted."""
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        function(*arguments)
    return counter.get_total_flops()


def sizes(size: str, **other) -> TransformerConfig:
    width, depth, heads = FULL_SIZES[size]
    return TransformerConfig(width, depth, heads, 2, 4, 32, 1000, learn_sigma=True, **other)


TINY = TransformerConfig(16, 2, 2, 2, 4, 8, 10, learn_sigma=False)
REPA = {"projector_depth": 4, "projector_dim": 768}


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [TINY, replace(TINY, patch=4, latent_size=16), replace(TINY, patch=1, latent_size=4, latent_channels=32), replace(TINY, projector_depth=1, projector_dim=24, projector_hidden=40),
     sizes("S"), sizes("B"), sizes("L"), sizes("XL"), sizes("B", **REPA)],
    ids=lambda c: f"{c.width}x{c.depth}{'-repa' if c.projector_dim else ''}-patch{c.patch}",
)  # fmt: skip
def test_transformer(config):
    with torch.device("meta"):
        model = Transformer(config)
        x = torch.zeros(1, config.latent_channels, config.latent_size, config.latent_size)
        inputs = (x, torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    whole = counted(model, *inputs, config.projector_dim is not None)
    assert flops.transformer_flops(config) == pytest.approx(whole, rel=1e-3)
    assert flops.without_projector(config) == pytest.approx(counted(model, *inputs), rel=1e-3)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(sizes("S"), 32_963_360), (sizes("B"), 130_512_416), (sizes("L"), 458_102_816), (sizes("XL"), 675_129_632),
     (replace(sizes("B", **REPA), learn_sigma=False), 137_845_008)],
)  # fmt: skip
def test_parameters_are_the_published_ones(config, parameters):
    """DiT's and REPA's sizes, to the unit."""
    assert flops.transformer_parameters(config, 1000) == parameters


def test_real_tensors_cost_what_meta_tensors_do():
    model = Transformer(TINY)
    assert counted(model, torch.zeros(3, 4, 8, 8), torch.zeros(3), torch.zeros(3, dtype=torch.int64)) == pytest.approx(
        3 * flops.transformer_flops(TINY), rel=1e-3
    )


@pytest.mark.slow
def test_a_training_step_is_three_forward_passes():
    with torch.device("meta"):
        model = Transformer(sizes("B"))
        inputs = (torch.zeros(2, 4, 32, 32), torch.zeros(2), torch.zeros(2, dtype=torch.int64))
    step = counted(lambda: model(*inputs).sum().backward())
    assert 2 * flops.TRAINED * flops.transformer_flops(sizes("B")) == pytest.approx(step, rel=0.01)


def test_the_published_multiply_adds():
    """GMAC a forward pass: DiT's table 4 (S to XL), and the counts of SD-VAE and DINOv2-large with registers at 448 pixels."""
    published = {"S": 6.06, "B": 23.01, "L": 80.70, "XL": 118.62}
    assert {s: round(flops.transformer_flops(sizes(s)) / 2e9, 2) for s in published} == published
    vae = flops.VaeSizes(256, 4, (128, 256, 512, 512), 2)
    assert flops.vae_encoder_flops(vae) / 2e9 == pytest.approx(136.4, abs=0.05)
    assert flops.vae_decoder_flops(vae) / 2e9 == pytest.approx(311.1, abs=0.05)
    dino = flops.vit_sizes("vit_large_patch14_reg4_dinov2.lvd142m")
    assert flops.vit_flops(dino, 32) / 2e9 == pytest.approx(363.4, abs=0.05)
    assert flops.patch_gan_flops(256, 64, 3) / 2e9 == pytest.approx(3.15, abs=0.005)


@pytest.mark.parametrize(
    ("vae", "groups"),
    [(flops.VaeSizes(256, 4, (128, 256, 512, 512), 2), 32), (flops.VaeSizes(32, 4, (16, 16, 32), 1), 8), (flops.VaeSizes(16, 3, (8,), 3), 8)],
    ids=["sd-vae", "demo", "one-level"],
)  # fmt: skip
def test_autoencoder(vae, groups):
    with torch.device("meta"):
        network = autoencoder.build(vae.resolution, vae.latent_channels, vae.block_out_channels, vae.layers_per_block, groups)
        x, z = torch.zeros(1, 3, vae.resolution, vae.resolution), torch.zeros(1, vae.latent_channels, *[vae.latent_size] * 2)
    assert flops.vae_encoder_flops(vae) == pytest.approx(counted(network.encode, x), rel=1e-3)
    assert flops.vae_decoder_flops(vae) == pytest.approx(counted(network.decode, z), rel=1e-3)
    convolutions = sum(p.numel() for name, p in network.named_parameters() if "norm" not in name)
    assert flops.vae_parameters(vae) == convolutions


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "grid"),
    [("vit_large_patch14_reg4_dinov2.lvd142m", 32), ("vit_base_patch14_reg4_dinov2.lvd142m", 16),
     ("vit_base_patch14_dinov2.lvd142m", 16), ("vit_small_patch16_224.augreg_in21k", 14), ("vit_tiny_patch16_224", 8)],
)  # fmt: skip
def test_published_teachers(name, grid):
    vit = flops.vit_sizes(name)
    with torch.device("meta"):
        network = teacher.build(teacher.TeacherConfig(name, vit.patch, grid, (0.5,) * 3, (0.5,) * 3))
        x = torch.zeros(1, 3, grid * vit.patch, grid * vit.patch)
    assert flops.vit_flops(vit, grid) == pytest.approx(counted(network.forward_features, x), rel=1e-3)


def test_an_unknown_teacher_is_refused():
    with pytest.raises(ValueError, match="convnext_base"):
        flops.vit_sizes("convnext_base")


def test_a_small_teacher_with_its_head():
    config = teacher.TeacherConfig("", 4, 8, (0.5,) * 3, (0.5,) * 3, width=48, depth=3, heads=3, classes=10)
    network = teacher.build(config)
    counts = counted(network, torch.zeros(1, 3, 32, 32))
    assert flops.vit_flops(flops.VitSizes(48, 3, 4), 8, classes=10) == pytest.approx(counts, rel=1e-3)


@pytest.mark.parametrize(("resolution", "channels", "layers"), [(256, 64, 3), (32, 16, 2), (32, 4, 1), (64, 8, 4)])
def test_discriminator(resolution, channels, layers):
    network = discriminator.patch_gan(channels, layers).eval()
    counts = counted(network, torch.zeros(1, 3, resolution, resolution))
    assert flops.patch_gan_flops(resolution, channels, layers) == pytest.approx(counts, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("net", ["vgg", "alex", "squeeze"])
@pytest.mark.parametrize("resolution", [32, 64, 256])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lpips(net, resolution):
    import lpips

    network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).to("meta")
    x = torch.zeros(1, 3, resolution, resolution, device="meta")
    assert 2 * flops.lpips_flops(net, resolution) == pytest.approx(counted(network, x, x), rel=1e-3)


@pytest.mark.parametrize(("resolution", "width", "blocks"), [(32, 16, 1), (64, 8, 2), (256, 16, 1), (96, 4, 1)])
def test_small_cnn(resolution, width, blocks):
    from reals.measure.extractors.small_cnn import SmallCNN, SmallCNNConfig

    network = SmallCNN(SmallCNNConfig(10, resolution, width, blocks))
    counts = counted(network, torch.zeros(1, 3, resolution, resolution, dtype=torch.uint8))
    assert flops.small_cnn_flops(resolution, width, 10, blocks) == pytest.approx(counts, rel=1e-3)


@pytest.mark.slow
def test_inception(tmp_path):
    from small import random_inception_weights

    from reals.measure.extractors.inception import inception

    network = inception(random_inception_weights(tmp_path / "inception.pth"))
    assert counted(network.features, torch.zeros(1, 3, 64, 64, dtype=torch.uint8)) == pytest.approx(
        flops.INCEPTION_FLOPS, rel=1e-3
    )


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_align_network(layers):
    from reals.method.alignment import AlignNetworks

    network = AlignNetworks(4, 24, layers, 32, patch=True, cls=True)
    counts = counted(network, torch.zeros(1, 4, 8, 8))
    assert flops.mlp_flops(4, 32, 24, layers, 64) + flops.mlp_flops(4, 32, 24, layers, 1) == counts


@pytest.mark.slow
def test_vf_s_step_passes_the_decoder_once_more():
    """The adaptive weight beside the same step with a constant one; without LPIPS, whose backbone takes short cuts at 32 pixels."""
    plain = replace(ALIGN, layers=1, cls=False)
    whole, constant = (counted(task(align=align, lambda_g=0.0, lambda_p=0.0).update, 0) / 4 for align in (VF, plain))
    once_more = flops.vae_decoder_flops(flops.VaeSizes(32, 4, (8, 8, 8), 1))
    cosines = (flops.FROZEN + flops.TRAINED + 2) * flops.linear(6, 64, 64)
    assert whole - constant == pytest.approx(once_more + cosines, rel=0.05)


@pytest.mark.slow
def test_eq_vae_s_steps_cost_what_their_images_sizes_do(project):
    """Counted on the real steps of each size, and in their mean over the authors' chances."""
    networks = Costs(Registry(load("smoke"))).networks
    spec = replace(AUTOENCODER, align=None, equivariance=AUTHORS, lpips=replace(AUTOENCODER.lpips, net="squeeze"))
    made = task(align=None, lambda_p=0.0, equivariance=AUTHORS)
    batch, (share,) = made.batch(0), made.processes.shares(4)
    x = models.to_input(batch.pixels)
    made.discriminator.requires_grad_(False)

    def ratio(transformation):
        """Of what a step costs to what a plain one does, without LPIPS, whose backbone the stand-in has not."""
        plain, mine = (counted(made.gradient, batch, x, 0.0, share, t) for t in (None, transformation))
        return mine / plain

    def planned(encoded, decoded):
        through = partial(networks._through, replace(spec, lambda_p=0.0, lambda_g=0.0))
        return through(encoded, decoded) / through(32, 32)

    for cells in (2, 5):
        assert ratio(Transformation(cells, 8, 1, True)) == pytest.approx(planned(32, 4 * cells), rel=0.05)
        assert ratio(Transformation(cells, 8, 0, False)) == pytest.approx(planned(4 * cells, 4 * cells), rel=0.05)
    mean = networks.autoencoder_step_flops(spec, None) / networks._through(spec, 32, 32)
    shares = [0.375, *([0.5 / 6] * 6), *([0.125 / 6] * 6)]
    sides = [(32, 32), *((32, 4 * c) for c in range(2, 8)), *((4 * c, 4 * c) for c in range(2, 8))]
    expected = sum(share * networks._through(spec, *s) for share, s in zip(shares, sides, strict=True))
    assert mean == pytest.approx(expected / networks._through(spec, 32, 32), rel=1e-6) and 0.5 < mean < 0.9
