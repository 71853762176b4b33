"""The precision of networks' products: what it is inside the block, and as before after it."""

import pytest
import torch

from reals.method.precision import PRECISIONS, allow_tf32, described, running

CPU = torch.device("cpu")
PRODUCTS = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def tf32() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.fixture(params=[False, True])
def before(request: pytest.FixtureRequest):
    outside = tf32()
    allow_tf32(request.param)
    yield tf32()
    torch.set_float32_matmul_precision(outside[0])
    torch.backends.cudnn.allow_tf32 = outside[1]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_products_have_the_precision_inside_the_block_and_the_one_before_after_it(precision: str, before):
    layer, x = torch.nn.Linear(4, 4), torch.ones(2, 4)
    with running(CPU, precision):
        assert layer(x).dtype == PRODUCTS[precision]
        assert tf32() == (("high", True) if precision == "tf32" else ("highest", False))
    assert layer(x).dtype == torch.float32
    assert tf32() == before


def test_an_error_leaves_the_precision_as_it_was(before):
    with pytest.raises(ZeroDivisionError), running(CPU, "tf32"):
        raise ZeroDivisionError
    assert tf32() == before


def test_an_unknown_precision_is_refused_by_name():
    with pytest.raises(ValueError, match="precision: got 'fp8', expected one of fp32, tf32, bf16, fp16"), running(CPU, "fp8"):
        pass


def test_a_reader_is_not_told_of_tf32_where_there_may_be_none():
    assert [described(name) for name in ("fp32", "tf32", "bf16")] == ["fp32", "tf32, on GPUs that have it", "bf16"]
