"""The law of all kernels: nothing is read or written beyond the ends of an array.

Each array lies against a page that kills who touches it, once with its end and once with its start.
"""

import ctypes
import itertools

import pytest
import torch
from tests.kernels.fences import Fenced, check_in_child
from tests.kernels.lone_embedding import embed

from unshard.kernels import dense, int8, norm
from unshard.kernels.attention import BLOCK_ROWS, PagedAttention, paged_attention

DTYPES = [torch.float32, torch.bfloat16]
ROWS = [*range(1, 10), 16, 17, 33, 37, 66]
FEW_ROWS = [1, 2, 3, 6, 7, 17]
"""Around the 2 or 6 that share each byte of an 8-bit weight."""
WIDTHS = [1, 7, 8, 15, 16, 17, 31, 33]
"""Around a vector of 4, 8 or 16 numbers, and of 32 that are multiplied in pairs."""
LENGTHS = [1, 16, 17, 130]
"""Around blocks of a cache, and pieces of 64 positions."""


def numbers(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(dtype)


@pytest.fixture
def fenced():
    """Lays arrays against their ends, or their starts."""
    rooms = [Fenced() for _ in range(6)]

    def fenced(at_end, *arrays, first=0):
        pairs = zip(rooms[first:], arrays, strict=False)
        return [room.put(array, at_end=at_end) for room, array in pairs]

    return fenced


def unwritten(like):
    return torch.full_like(like, float("nan"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_of_a_linear_with_a_weight_as_in_files(level, dtype, fenced):
    def check(at_end, width, out):
        weight, bias = numbers(out, width, dtype=dtype), numbers(out, dtype=dtype)
        all_rows = numbers(ROWS[-1], width, dtype=dtype)
        held = fenced(at_end, weight, bias)
        for rows in ROWS:
            expected = dense.linear(weight, bias, all_rows[:rows])
            x, y = fenced(at_end, all_rows[:rows], unwritten(expected), first=2)
            arrays = [each.data_ptr() for each in (*held, x, y)]
            level.dense(level.number, 1, *arrays, rows, width, out, dtype is torch.bfloat16, False)
            assert torch.equal(y, expected), (rows, width, out)

    outs = [1, 3, 5, 15, 16, 17, 65]
    check_in_child(check, itertools.product([True, False], WIDTHS, outs))


@pytest.mark.parametrize("dtype", DTYPES)
def test_of_a_linear_with_an_8_bit_weight(level, dtype, fenced):
    """Its weight, scales and bias are padded to whole groups of 64 outputs and of 4 inputs."""

    def check(at_end, width, out):
        weight = int8.pack(numbers(out, width), numbers(out))
        all_rows = numbers(FEW_ROWS[-1], width, dtype=dtype)
        all_rows[:, -1] *= 50  # far beyond 8 bits, in a group that may not be whole
        expected = int8.linear(weight, all_rows)
        held = fenced(at_end, weight.packed, weight.scales, weight.bias)
        for name, array in zip(("packed", "scales", "bias"), held, strict=True):
            setattr(weight.native, name, array.data_ptr())
        native = ctypes.addressof(weight.native)
        for rows in FEW_ROWS:
            x, y = fenced(at_end, all_rows[:rows], unwritten(expected[:rows]), first=3)
            arrays = native, x.data_ptr(), y.data_ptr()
            level.linear(level.number, 1, *arrays, rows, dtype is torch.bfloat16, False)
            assert torch.equal(y, expected[:rows]), (rows, width, out)

    check_in_child(check, itertools.product([True, False], WIDTHS, [1, 17, 64, 65]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_of_a_sum_and_its_norm(level, dtype, fenced):
    def check(at_end, width, rows):
        x, y = (numbers(rows, width, k, dtype=dtype)[..., 0].contiguous() for k in (1, 2))
        weight, bias = numbers(width, dtype=dtype), numbers(width, dtype=dtype)
        total = x + y
        expected = norm.layer_norm(total, weight, bias)
        x, y, weight, bias, z = fenced(at_end, x, y, weight, bias, unwritten(x))
        arrays = (each.data_ptr() for each in (x, y, z))
        of = norm.native(weight, bias)
        job = norm._Job(*arrays, of, width, dtype is torch.bfloat16)
        level.norm(level.number, 1, ctypes.addressof(job), rows)
        assert torch.equal(x, total), (rows, width)
        assert torch.equal(z, expected), (rows, width)

    check_in_child(check, itertools.product([True, False], WIDTHS, [1, 3]))


@pytest.mark.parametrize("tokens_dtype", [*DTYPES, torch.float16])
def test_of_embeddings(level, tokens_dtype, fenced):
    """The first and the last row of each table."""
    dtype = torch.bfloat16 if tokens_dtype is torch.bfloat16 else torch.float32

    def check(at_end, width):
        tokens, places = numbers(5, width, dtype=tokens_dtype), numbers(3, width, dtype=dtype)
        ids, positions = torch.tensor([4, 0, 4]), torch.tensor([2, 2, 0])
        expected = tokens[ids].to(dtype) + places[positions]
        arrays = fenced(at_end, tokens, places, ids, positions, unwritten(expected))
        assert embed(level, *arrays) == 0
        assert torch.equal(arrays[-1], expected), width

    check_in_child(check, itertools.product([True, False], WIDTHS))


@pytest.mark.parametrize("cache_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_of_attention(level, dtype, cache_dtype, fenced):
    heads = 12  # three of them are a task

    def check(at_end, head_dim, length, new):
        new = min(length, new)
        num_blocks = -(-length // BLOCK_ROWS)
        cache = numbers(num_blocks, 2, heads, BLOCK_ROWS, head_dim, dtype=cache_dtype)
        kvq = numbers(new, 3 * heads * head_dim, dtype=dtype)
        tables = torch.arange(num_blocks).int()[None]
        starts, lengths = torch.tensor([0, new]).int(), torch.tensor([length]).int()
        written = cache.clone()
        expected = paged_attention(kvq, written, tables, starts, lengths, heads)
        held = fenced(at_end, kvq, cache, unwritten(expected), tables, starts, lengths)
        kvq, cache, out, *step = held
        job = PagedAttention([cache], *step).job(dtype)
        job.kvq, job.cache, job.out = (each.data_ptr() for each in (kvq, cache, out))
        level.attention(level.number, 1, ctypes.addressof(job))
        assert torch.equal(out, expected), (head_dim, length, new)
        assert torch.equal(cache, written), (head_dim, length, new)

    check_in_child(check, itertools.product([True, False], [16, 80], LENGTHS, [1, 5, 67]))
