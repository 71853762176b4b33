import pytest
import torch
import torch.nn.functional as F

from reals import rng
from reals.method.models.bf16 import Linear, attention


def drawn(*shape: int, name: str = "x") -> torch.Tensor:
    return torch.randn(shape, generator=rng.generator(0, name))


def error(got: torch.Tensor, exact: torch.Tensor) -> float:
    return float((got.double() - exact).norm() / exact.norm())


def stock_attention(qkv: torch.Tensor) -> torch.Tensor:
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def gradient(function, x: torch.Tensor, slope: torch.Tensor, autocast: bool) -> torch.Tensor:
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = function(x)
    out.backward(slope.to(out.dtype))
    return x.grad


@pytest.mark.parametrize("spread", [1.0, 6.0])  # at 6 the logits reach 200, where bfloat16 counts in whole units
@pytest.mark.parametrize("batch", [1, 3])
def test_attention_is_as_close_to_float64_as_the_stock_kernel(spread, batch):
    x, slope = drawn(batch, 16, 3, 2, 8), drawn(batch, 16, 2, 8, name="slope")
    x[:, :, :2] *= spread
    x, slope = x.bfloat16().float(), slope.bfloat16().float()
    exact = gradient(stock_attention, x.double(), slope.double(), autocast=False)
    stock = error(gradient(stock_attention, x.bfloat16(), slope, autocast=True), exact)
    assert error(gradient(attention, x.bfloat16(), slope, autocast=True), exact) < 1.5 * stock + 1e-3
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(attention(x.requires_grad_()), stock_attention(x.bfloat16()))


@pytest.mark.parametrize("shape", [(16, 48), (48, 16)])  # the input or the gradient is the narrower one
def test_linear_is_as_close_to_float64_as_the_stock_layer(shape):
    layer = Linear(*shape)
    x, slope = drawn(3, 50, shape[0]), drawn(3, 50, shape[1], name="slope")

    def gradients(layer: torch.nn.Module, x, slope, autocast: bool) -> list[torch.Tensor]:
        layer.zero_grad(set_to_none=True)
        return [gradient(layer, x, slope, autocast), layer.weight.grad, layer.bias.grad]

    exact_layer = torch.nn.Linear(*shape).double()
    exact_layer.load_state_dict(layer.state_dict())
    stock_layer = torch.nn.Linear(*shape)
    stock_layer.load_state_dict(layer.state_dict())
    exact = gradients(exact_layer, x.double(), slope.double(), False)
    for got, stock, true in zip(gradients(layer, x, slope, True), gradients(stock_layer, x, slope, True), exact, strict=True):
        assert got.dtype == torch.float32 and got.shape == true.shape
        assert error(got, true) < 1.5 * error(stock, true) + 1e-3
    assert layer.weight.grad.is_contiguous()
    assert torch.equal(layer(x), stock_layer(x))  # in float32 they are one


@pytest.mark.slow
def test_compiles_without_graph_breaks():
    layer, x = Linear(16, 16), drawn(2, 8, 16)

    def step(x):
        return attention(layer(x).view(2, 8, 1, 2, 8).expand(-1, -1, 3, -1, -1))

    slope = drawn(2, 8, 2, 8, name="slope")
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert torch.equal(gradient(compiled, x, slope, True), gradient(step, x, slope, True))
