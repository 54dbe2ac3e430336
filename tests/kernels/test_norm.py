"""Laws of the norm: torch's values in float64, and a row's bits whatever the other rows."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unshard.kernels import norm

DTYPES = [torch.float32, torch.bfloat16]


def numbers(rows, size, dtype, seed=0):
    """x, far from 0 in the mean, with a weight and a bias."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, size, generator=generator) * 3 + 5
    weight, bias = torch.randn(2, size, generator=generator)
    return x.to(dtype), weight.to(dtype), bias.to(dtype)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(1, 40),
    size=st.sampled_from([1, 2, 3, 15, 16, 17, 31, 33, 64, 768, 1000]),
    dtype=st.sampled_from(DTYPES),
)
def test_it_says_what_torch_says(level, rows, size, dtype):
    x, weight, bias = numbers(rows, size, dtype)
    given = x.clone()
    y = norm.layer_norm(x, weight, bias)
    wide = (x.double(), (size,), weight.double(), bias.double(), 1e-5)
    expected = torch.nn.functional.layer_norm(*wide)
    assert y.dtype == dtype
    assert torch.equal(x, given)
    # What fp32 loses of x beside the mean is stretched like the rest of the row.
    stretch = (x.double().var(1, correction=0) + 1e-5).rsqrt() * x.double().abs().amax(1)
    allowed = 2**-21 * (stretch[:, None] * weight.abs() + expected.abs() + bias.abs())
    if dtype == torch.bfloat16:
        allowed += 2**-8 * expected.abs()
    assert ((y - expected).abs() <= allowed).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [33, 768])
def test_a_row_does_not_notice_the_others(level, dtype, size):
    x, weight, bias = numbers(40, size, dtype)
    together = norm.layer_norm(x, weight, bias)
    for number in (0, 7, 39):
        assert torch.equal(
            norm.layer_norm(x[number : number + 1], weight, bias)[0], together[number]
        )


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_a_number_stays_in_its_row(level, dtype, poison):
    x, weight, bias = numbers(3, 70, dtype)
    x[1, 69] = poison
    y = norm.layer_norm(x, weight, bias)
    assert y[1].isnan().all()
    assert y[[0, 2]].isfinite().all()


def test_other_numbers_are_left_to_torch():
    assert not norm.suits(torch.ones(4, dtype=torch.float16))
    assert not norm.suits(torch.ones(4, device="meta"))
