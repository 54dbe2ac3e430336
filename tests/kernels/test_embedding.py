"""Rows of two tables are what torch looks up and adds, bit for bit, at every level."""

import pytest
import torch
from tests.kernels.lone_embedding import embed

WIDTH = 37


def values_of(dtype):
    """All that there are in 16 bits; of 32, some."""
    if dtype is torch.float32:
        return torch.randn(40 * WIDTH, generator=torch.Generator().manual_seed(1))
    return torch.arange(-(1 << 15), 1 << 15).short().view(dtype)


@pytest.mark.parametrize("flushes", [False, True])
@pytest.mark.parametrize(
    ("tokens_dtype", "dtype"),
    [
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.bfloat16),
    ],
)
def test_sums_are_torchs(level, tokens_dtype, dtype, flushes):
    """Whether or not the processor takes subnormal numbers of fp32 for 0."""
    values = values_of(tokens_dtype)
    tokens = values[: len(values) // WIDTH * WIDTH].view(-1, WIDTH)
    places = torch.zeros(3, WIDTH, dtype=dtype)
    places[1] = torch.arange(WIDTH) * 0.3
    ids = torch.arange(len(tokens))
    positions = ids % 3
    if flushes and tokens_dtype is not torch.float16:
        pytest.skip("torch, too, takes them for 0 then")
    expected = tokens.to(dtype) + places[positions]
    x = torch.empty_like(expected)
    assert torch.set_flush_denormal(flushes) or not flushes
    try:
        assert embed(level, tokens, places, ids, positions, x) == 0
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(x.isnan(), expected.isnan())
    assert torch.equal(x.nan_to_num(7), expected.nan_to_num(7))
