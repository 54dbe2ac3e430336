"""The law of threads: however many, be it more than tasks or runs of them, they change no bit."""

import pytest
import torch

from unshard.kernels import dense, int8, norm
from unshard.kernels.attention import BLOCK_ROWS, paged_attention

MANY = 100
"""More than the 64 runs that a call's tasks are cut into, so some share theirs from the start."""


def numbers(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def attention():
    """Of 128 sequences, a task for each head of them at least."""
    tables = torch.arange(128).int()[:, None]
    starts, lengths = torch.arange(129).int(), torch.full((128,), 9).int()
    cache = numbers(128, 2, 2, BLOCK_ROWS, 16)
    out = paged_attention(numbers(128, 96), cache, tables, starts, lengths, 2)
    return torch.cat([out.flatten(), cache.flatten()])


CALLS = {
    "dense": lambda: dense.linear(numbers(2000, 8), numbers(2000), numbers(5, 8)),
    "int8": lambda: int8.linear(int8.pack(numbers(6500, 8), numbers(6500)), numbers(2, 8)),
    "int8 rows": lambda: int8.linear(int8.pack(numbers(8, 200), numbers(8)), numbers(130, 200)),
    "norm": lambda: norm.layer_norm(numbers(130, 200), numbers(200), numbers(200)),
    "attention": attention,
    "few tasks": lambda: dense.linear(numbers(40, 8), numbers(40), numbers(5, 8)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_more_threads_than_runs_give_the_same_bits(compiled, call):
    alone = call()
    torch.set_num_threads(MANY)
    try:
        found = [call() for _ in range(3)]
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(each, alone) for each in found)
