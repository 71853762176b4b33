import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reals import rng
from reals.method.models.transformer import (
    FULL_SIZES,
    Transformer,
    TransformerConfig,
    initialise,
    sincos_positions,
    time_frequencies,
    unpatchify,
)

TINY = TransformerConfig(width=32, depth=2, heads=2, patch=2, latent_channels=4, latent_size=8, classes=10, learn_sigma=True)
REPA = TransformerConfig(
    width=32,
    depth=3,
    heads=2,
    patch=2,
    latent_channels=4,
    latent_size=8,
    classes=10,
    learn_sigma=False,
    projector_depth=2,
    projector_dim=12,
    projector_hidden=16,
)


def fresh(config: TransformerConfig, seed: int = 0) -> Transformer:
    model = Transformer(config)
    initialise(model, rng.generator(seed, "weights"))
    return model


def trained(config: TransformerConfig) -> Transformer:
    """A float64 model whose every weight, also those initialised to zero, matters."""
    model, generator = fresh(config).double(), rng.generator(0, "perturbation")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "pos_embed":
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def inputs(config: TransformerConfig, batch: int = 3):
    generator = rng.generator(0, "inputs")
    shape = (batch, config.latent_channels, config.latent_size, config.latent_size)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    t = torch.rand(batch, generator=generator, dtype=torch.float64)
    return x, t, torch.arange(batch) % (config.classes + 1)


def count(config: TransformerConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Transformer(config).parameters())


def full(size: str, **changes) -> TransformerConfig:
    width, depth, heads = FULL_SIZES[size]
    return TransformerConfig(
        width=width,
        depth=depth,
        heads=heads,
        patch=2,
        latent_channels=4,
        latent_size=32,
        classes=1000,
        **changes,
    )


@pytest.mark.parametrize(
    ("size", "eight_channels", "four_channels"),
    [
        ("S", 32_963_360, 32_957_200),
        ("B", 130_512_416, 130_500_112),
        ("L", 458_102_816, 458_086_416),
        ("XL", 675_129_632, 675_111_184),
    ],
)
def test_parameter_counts_are_those_of_dit_and_sit(size, eight_channels, four_channels):
    assert count(full(size, learn_sigma=True)) == eight_channels
    assert count(full(size, learn_sigma=False)) == four_channels


@pytest.mark.parametrize(("size", "depth", "parameters"), [("B", 4, 137_845_008), ("L", 8, 465_955_600), ("XL", 8, 683_242_512)])
def test_parameter_counts_are_those_of_repa(size, depth, parameters):
    assert count(full(size, learn_sigma=False, projector_depth=depth, projector_dim=768)) == parameters


def test_state_dict_keys_are_the_published_ones():
    block = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1"]
    layers = ["x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2", "final_layer.linear"]
    layers += ["final_layer.adaLN_modulation.1", "projectors.0.0", "projectors.0.2", "projectors.0.4"]
    layers += [f"blocks.{i}.{layer}" for i in range(REPA.depth) for layer in block]
    expected = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    expected |= {"pos_embed", "y_embedder.embedding_table.weight"}
    assert set(Transformer(REPA).state_dict()) == expected


class TimmBlock(nn.Module):
    """A DiT block put together from timm's parts, as the published code does."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        from timm.layers import Mlp
        from timm.models.vision_transformer import Attention

        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(width, num_heads=heads, qkv_bias=True)
        self.mlp = Mlp(width, 4 * width, act_layer=lambda: nn.GELU(approximate="tanh"))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x, c):
        a, b, g, d, e, h = self.adaLN_modulation(c)[:, None].chunk(6, dim=-1)
        x = x + g * self.attn(self.norm(x) * (1 + b) + a)
        return x + h * self.mlp(self.norm(x) * (1 + e) + d)


def test_forward_equals_a_network_of_timm_parts():
    from timm.layers import PatchEmbed

    model = trained(TINY)
    state = model.state_dict()
    x, t, y = inputs(TINY)

    def part(prefix):
        return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}

    embed = PatchEmbed(img_size=8, patch_size=2, in_chans=4, embed_dim=32).double()
    embed.load_state_dict(part("x_embedder."), strict=True)
    h = embed(x) + state["pos_embed"]
    time = time_frequencies(t).double()
    for layer in ("0", "2"):
        time = F.linear(F.silu(time) if layer == "2" else time, *part(f"t_embedder.mlp.{layer}.").values())
    c = time + state["y_embedder.embedding_table.weight"][y]
    for i in range(TINY.depth):
        block = TimmBlock(32, 2).double()
        block.load_state_dict(part(f"blocks.{i}."), strict=True)
        h = block(h, c)
    shift, scale = F.linear(F.silu(c), *part("final_layer.adaLN_modulation.1.").values()).chunk(2, dim=1)
    h = F.layer_norm(h, (32,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]
    h = F.linear(h, *part("final_layer.linear.").values())
    expected = h.view(3, 4, 4, 2, 2, 8).permute(0, 5, 1, 3, 2, 4).reshape(3, 8, 8, 8)
    torch.testing.assert_close(model(x, t, y), expected, rtol=1e-12, atol=1e-12)


def test_time_frequencies_equal_diffusers():
    from diffusers.models.embeddings import get_timestep_embedding

    t = torch.tensor([0.0, 0.3, 1.0, 17.0, 999.0])
    expected = get_timestep_embedding(t, 256, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(time_frequencies(t), expected, rtol=0, atol=2e-4)
    torch.testing.assert_close(time_frequencies(t[:3]), expected[:3], rtol=1e-6, atol=1e-6)
    assert all(time_frequencies(t.to(dtype)).dtype == torch.float32 for dtype in (torch.float64, torch.int64))


def test_positions_of_the_base_model():
    positions = sincos_positions(768, 16)[0]
    omega = positions[1, :192].double().asin()
    assert positions[1, 0].item() == pytest.approx(math.sin(1))
    assert omega[1].item() == pytest.approx(0.9531618832, rel=1e-6)
    assert omega[191].item() == pytest.approx(1.04914e-4, rel=1e-5)
    assert not torch.equal(positions[1, :384], positions[0, :384])
    assert torch.equal(positions[1, 384:], positions[0, 384:])
    assert torch.equal(positions[16, :384], positions[0, :384])
    assert torch.equal(positions[16, 384:], positions[1, :384])


def test_unpatchify_inverts_patchify():
    image = torch.arange(2 * 3 * 8 * 8.0).view(2, 3, 8, 8)
    tokens = image.view(2, 3, 4, 2, 4, 2).permute(0, 2, 4, 3, 5, 1).reshape(2, 16, 12)
    assert torch.equal(unpatchify(tokens, 2), image)


@pytest.mark.parametrize("config", [TINY, REPA])
def test_fresh_model_outputs_exactly_zero(config):
    x, t, y = inputs(config)
    output = fresh(config)(x.float(), t.float(), y)
    assert output.shape == (3, config.out_channels, 8, 8)
    assert torch.equal(output, torch.zeros_like(output))


def test_first_step_moves_the_output_layer_only():
    model = fresh(TINY)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0)
    x, t, y = inputs(TINY)
    (model(x.float(), t.float(), y) - 1).square().mean().backward()
    optimizer.step()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {"final_layer.linear.weight", "final_layer.linear.bias"}


def test_initialisation_is_a_function_of_the_generator_alone():
    torch.manual_seed(1)
    first = fresh(TINY).state_dict()
    torch.manual_seed(2)
    again = fresh(TINY).state_dict()
    other = fresh(TINY, seed=1).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])


def test_projector_does_not_change_the_backbone():
    without = TransformerConfig(**{**vars(REPA), "projector_depth": None, "projector_dim": None})
    repa, plain = fresh(REPA).state_dict(), fresh(without).state_dict()
    assert all(torch.equal(repa[name], plain[name]) for name in plain)


def test_initial_distributions():
    config = TransformerConfig(**{**vars(TINY), "width": 128, "heads": 4, "classes": 500})
    state = fresh(config).state_dict()
    for name, fans in {
        "blocks.1.mlp.fc1.weight": 128 + 512,
        "blocks.0.attn.qkv.weight": 128 + 384,
        "x_embedder.proj.weight": 128 + 16,
    }.items():
        bound = math.sqrt(6 / fans)
        assert 0.99 * bound < state[name].abs().max() <= bound
        assert state[name].std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    for name in ("y_embedder.embedding_table.weight", "t_embedder.mlp.0.weight", "t_embedder.mlp.2.weight"):
        assert state[name].std().item() == pytest.approx(0.02, rel=0.03)
    zero = re.compile(r"bias$|adaLN|final_layer\.linear")
    assert all(not value.any() for name, value in state.items() if zero.search(name))


def test_null_row_exists_iff_labels_are_dropped():
    assert len(Transformer(TINY).y_embedder.embedding_table.weight) == 11
    never = TransformerConfig(**{**vars(TINY), "label_dropout": 0.0})
    assert len(Transformer(never).y_embedder.embedding_table.weight) == 10


def test_labels_are_never_dropped_inside_the_model():
    model = trained(TINY)
    x, t, y = inputs(TINY)
    assert all(torch.equal(model.train()(x, t, y), model.eval()(x, t, y)) for _ in range(20))


def test_samples_do_not_see_each_other():
    model = trained(TINY)
    x, t, y = inputs(TINY, batch=5)
    parts = torch.cat([model(x[i : i + 2], t[i : i + 2], y[i : i + 2]) for i in (0, 2, 4)])
    torch.testing.assert_close(model(x, t, y), parts, rtol=1e-12, atol=1e-12)


def test_projected_features_come_from_after_the_named_block():
    model = trained(REPA)
    x, t, y = inputs(REPA)
    output, projected = model.forward_features(x, t, y)
    assert projected.shape == (3, 16, 12)
    assert torch.equal(output, model(x, t, y))
    projected.sum().backward()
    touched = {name.split(".")[1] for name, p in model.named_parameters() if "blocks" in name and p.grad is not None}
    assert touched == {"0", "1"}


@pytest.mark.slow
def test_compiles_without_graph_breaks():
    model = trained(REPA)
    x, t, y = inputs(REPA)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x, t, y, project=True)[1], model.forward_features(x, t, y)[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "multiple of heads"),
        ({"width": 18, "heads": 2}, "multiple of 4"),
        ({"patch": 3}, "divisor of latent_size"),
        ({"label_dropout": 1.0}, "label_dropout"),
        ({"depth": 0}, "transformer depth"),
        ({"projector_depth": 1}, "both"),
        ({"projector_depth": 3, "projector_dim": 8}, r"1\.\.2"),
    ],
)
def test_impossible_config_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**{**vars(TINY), **change})


def test_wrong_use_is_refused():
    x, t, y = inputs(TINY)
    model = fresh(TINY).double()
    with pytest.raises(ValueError, match="no projector"):
        model.forward_features(x, t, y)
    with pytest.raises(ValueError, match=r"got \(4, 4, 4\), expected \(4, 8, 8\)"):
        model(x[:, :, :4, :4], t, y)
