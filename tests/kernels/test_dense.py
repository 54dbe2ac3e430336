"""Laws of the dense linear: torch's values, and a row's bits whatever the other rows."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unshard.kernels import dense

DTYPES = [torch.float32, torch.bfloat16]

shapes = st.tuples(
    st.integers(1, 9),
    st.sampled_from([1, 3, 4, 15, 16, 17, 63, 64, 65, 200]),
    st.sampled_from([1, 3, 7, 8, 15, 16, 17, 31, 32, 33, 64, 70, 768]),
)


def layer(rows, out_features, in_features, dtype, seed=0):
    """Weight, bias, x; sums about 1."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out_features, in_features, generator=generator) / in_features**0.5
    bias = torch.randn(out_features, generator=generator)
    x = torch.randn(rows, in_features, generator=generator)
    return weight.to(dtype), bias.to(dtype), x.to(dtype)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=shapes, dtype=st.sampled_from(DTYPES), relu=st.booleans(), has_bias=st.booleans())
def test_it_says_what_torch_says(level, shape, dtype, relu, has_bias):
    weight, bias, x = layer(*shape, dtype)
    y = dense.linear(weight, bias if has_bias else None, x, relu=relu)
    expected = x.double() @ weight.double().T + (bias.double() if has_bias else 0)
    if relu:
        expected = expected.relu()
    assert y.dtype == dtype
    assert y.shape == expected.shape
    # A bf16 result is rounded once, from an fp32 sum.
    allowed = 2**-8 * expected.abs() + 1e-5 if dtype == torch.bfloat16 else torch.tensor(3e-6)
    assert ((y - expected).abs() <= allowed).all()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.sampled_from([10, 25, 33, 40, 41, 42, 43, 65, 70, 336, 337, 400, 700]),
    out_features=st.sampled_from([1, 7, 8, 15, 16, 63, 64, 65, 130]),
    in_features=st.sampled_from([1, 7, 16, 255, 256, 257, 263, 600]),
    dtype=st.sampled_from(DTYPES),
    relu=st.booleans(),
)
def test_many_rows_are_what_torch_says(level, rows, out_features, in_features, dtype, relu):
    weight, bias, x = layer(rows, out_features, in_features, dtype)
    expected = x.double() @ weight.double().T + bias.double()
    if relu:
        expected = expected.relu()
    y = dense.linear(weight, bias, x, relu=relu)
    allowed = 2**-8 * expected.abs() + 1e-5 if dtype == torch.bfloat16 else torch.tensor(4e-6)
    assert ((y - expected).abs() <= allowed).all()


@pytest.mark.parametrize(
    ("dtype", "counts"),
    [
        (torch.float32, range(1, 25)),
        (torch.bfloat16, range(1, 13)),
        *((dtype, range(65, 73)) for dtype in DTYPES),
    ],
)
def test_a_row_does_not_notice_the_others(level, dtype, counts):
    """Among few rows, and among many."""
    weight, bias, x = layer(counts[-1], 130, 70, dtype)
    together = dense.linear(weight, bias, x)
    for count in counts:
        assert torch.equal(dense.linear(weight, bias, x[:count]), together[:count])
        assert torch.equal(dense.linear(weight, bias, x[-count:]), together[-count:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_with_16_lanes_64_rows_are_few(level, dtype):
    if not level.level.startswith("avx512"):
        pytest.skip("64 rows are many at this level")
    weight, bias, x = layer(64, 130, 70, dtype)
    together = dense.linear(weight, bias, x)
    for count in (1, 24, 25, 31, 32, 33, 47, 63):
        assert torch.equal(dense.linear(weight, bias, x[:count]), together[:count])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [7, 350])
def test_threads_change_nothing(level, dtype, rows):
    weight, bias, x = layer(rows, 400, 70, dtype)
    alone = dense.linear(weight, bias, x)
    torch.set_num_threads(3)
    try:
        assert torch.equal(dense.linear(weight, bias, x), alone)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [5, 70])
def test_what_is_no_number_is_not_hidden(level, dtype, relu, rows):
    weight, bias, x = layer(rows, 70, 66, dtype)
    x[2, 65] = float("nan")
    y = dense.linear(weight, bias, x, relu=relu)
    assert y[2].isnan().all()
    assert y[[0, 1, *range(3, rows)]].isfinite().all()


def test_it_is_for_cpus_and_what_it_computes(level, switch):
    assert dense.most_rows(torch.empty(2, 2)) > 0
    assert dense.most_rows(torch.empty(2, 2, dtype=torch.float16)) == 0
    assert dense.most_rows(torch.empty(2, 2, device="meta")) == 0
    switch("off")
    assert dense.most_rows(torch.empty(2, 2)) == 0
