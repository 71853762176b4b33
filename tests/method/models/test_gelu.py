import pytest
import torch
import torch.nn.functional as F

from reals import rng
from reals.method.models.gelu import AT_ONCE, gelu


def stock(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


def drawn(*shape: int) -> torch.Tensor:
    return 3 * torch.randn(shape, generator=rng.generator(0, "x"))


@pytest.mark.parametrize(
    "shape", [(7,), (3, 5, 4), (AT_ONCE + 1,), (2, AT_ONCE // 2, 3)]
)  # one part and several, the last not full
def test_values_are_those_of_float64(shape):
    x = drawn(*shape)
    torch.testing.assert_close(gelu(x).double(), stock(x.double()), rtol=1e-5, atol=1e-6)


def test_far_from_zero_it_is_zero_or_x():
    assert gelu(torch.tensor([-1e4, -50.0, 50.0, 1e4])).tolist() == [0.0, 0.0, 50.0, 1e4]


def test_a_transposed_input_keeps_its_places():
    x = drawn(6, 4).t()
    torch.testing.assert_close(gelu(x), stock(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_in_another_precision_it_is_the_stock_call(dtype):
    x = drawn(100).to(dtype)
    assert torch.equal(gelu(x), stock(x))


def test_where_a_gradient_is_needed_it_is_the_stock_call():
    x = drawn(100).requires_grad_()
    y = gelu(x)
    assert torch.equal(y, stock(x))
    assert torch.equal(*(torch.autograd.grad(value.sum(), x)[0] for value in (y, stock(x))))
