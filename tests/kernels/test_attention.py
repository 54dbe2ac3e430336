"""The law of the attention kernel: the plain torch path over the same cache says the same."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.kernels.paged_reference import torch_paged_attention
from torch import Tensor

from unshard.errors import UsageError
from unshard.kernels.attention import BLOCK_ROWS, paged_attention

DTYPES = [torch.float32, torch.bfloat16]
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 2e-2}
SPLIT_TOLERANCE = 2e-5
"""Of fp32 rows over a bf16 cache: their queries and weights have 16 bits there."""
HEADS = 3

# Around the edges of blocks, of pieces of 64 and of chunks of 128 positions.
EDGES = [1, 2, 15, 16, 17, 63, 64, 65, 80, 127, 128, 129, 255, 256, 257, 300]
sequences = st.lists(
    st.tuples(st.sampled_from(EDGES), st.sampled_from([1, 1, 2, 3, 4, 5, 64, 67, 300])),
    min_size=1,
    max_size=4,
)
same_fixtures = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@dataclass
class Step:
    """Arguments of `paged_attention`: (context length, new tokens) of each sequence, at random
    blocks of a cache whose unused rows are NaN."""

    kvq: Tensor
    cache: Tensor
    tables: Tensor
    starts: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, shapes, head_dim, kvq_dtype=torch.float32, cache_dtype=torch.float32, seed=0):
        shapes = [(length, min(length, new)) for length, new in shapes]
        generator = torch.Generator().manual_seed(seed)
        widest = max(-(-length // BLOCK_ROWS) for length, _ in shapes) + 1
        num_blocks = len(shapes) * widest + 2
        order = torch.randperm(num_blocks, generator=generator)
        tables = order[: len(shapes) * widest].view(len(shapes), widest).int()
        cache = torch.full((num_blocks, 2, HEADS, BLOCK_ROWS, head_dim), float("nan"))
        for table, (length, new) in zip(tables.tolist(), shapes, strict=True):
            for position in range(length - new):
                row = torch.randn(2, HEADS, head_dim, generator=generator)
                cache[table[position // BLOCK_ROWS], :, :, position % BLOCK_ROWS] = row
        rows = sum(new for _, new in shapes)
        kvq = torch.randn(rows, 3 * HEADS * head_dim, generator=generator)
        starts = torch.tensor([0] + [new for _, new in shapes]).cumsum(0).int()
        lengths = torch.tensor([length for length, _ in shapes]).int()
        return cls(kvq.to(kvq_dtype), cache.to(cache_dtype), tables, starts, lengths)

    def attend(self, attention=paged_attention):
        """Result and the cache afterwards, of a copy."""
        cache = self.cache.clone()
        out = attention(self.kvq, cache, self.tables, self.starts, self.lengths, HEADS)
        return out, cache

    def only(self, number):
        """The same step for one of its sequences."""
        first, last = self.starts[number : number + 2].tolist()
        return Step(
            self.kvq[first:last],
            self.cache,
            self.tables[number : number + 1],
            torch.tensor([0, last - first]).int(),
            self.lengths[number : number + 1],
        )


def same_bits(a, b):
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))


@pytest.mark.parametrize("cache_dtype", DTYPES)
@pytest.mark.parametrize("kvq_dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [64, 80, 128, 16])
def test_it_says_what_torch_says(level, head_dim, kvq_dtype, cache_dtype):
    shapes = [(1, 1), (300, 1), (16, 2), (257, 4), (67, 67), (33, 17)]
    step = Step.of(shapes, head_dim, kvq_dtype, cache_dtype)
    out, cache = step.attend()
    expected, expected_cache = step.attend(torch_paged_attention)
    assert same_bits(cache, expected_cache)
    assert out.dtype == kvq_dtype
    is_split = kvq_dtype != cache_dtype == torch.bfloat16
    tolerance = SPLIT_TOLERANCE if is_split else TOLERANCE[kvq_dtype]
    assert (out - expected).abs().max() < tolerance


@same_fixtures
@given(shapes=sequences, head_dim=st.sampled_from([32, 64, 80]), seed=st.integers(0, 99))
def test_of_any_lengths(level, shapes, head_dim, seed):
    step = Step.of(shapes, head_dim, seed=seed)
    out, cache = step.attend()
    expected, expected_cache = step.attend(torch_paged_attention)
    assert same_bits(cache, expected_cache)
    assert (out - expected).abs().max() < TOLERANCE[torch.float32]


def test_a_sequence_does_not_notice_the_others(level):
    step = Step.of([(40, 1), (300, 1), (90, 70), (17, 3)], 64)
    out, _ = step.attend()
    for number, (first, last) in enumerate(zip(step.starts, step.starts[1:], strict=False)):
        assert torch.equal(out[first:last], step.only(number).attend()[0])


def test_threads_change_nothing(level):
    step = Step.of([(40, 1), (300, 1), (90, 70)], 64)
    alone = step.attend()
    torch.set_num_threads(3)
    try:
        together = step.attend()
    finally:
        torch.set_num_threads(1)
    assert all(same_bits(a, b) for a, b in zip(alone, together, strict=True))


def test_a_prompt_in_pieces_is_the_prompt_at_once(level):
    whole = Step.of([(150, 150)], 64)
    at_once, _ = whole.attend()
    cache, parts = whole.cache.clone(), []
    for first, last in ((0, 7), (7, 8), (8, 100), (100, 150)):
        starts, length = torch.tensor([0, last - first]).int(), torch.tensor([last]).int()
        rows = whole.kvq[first:last]
        parts.append(paged_attention(rows, cache, whole.tables, starts, length, HEADS))
    assert (torch.cat(parts) - at_once).abs().max() < TOLERANCE[torch.float32]


def test_values_are_rounded_to_the_cache_as_torch_rounds_them(level):
    bits = torch.arange(0, 2**32, 65521 * 3, dtype=torch.int64)
    odd = torch.tensor([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F7FFFFF, 0x3F808000, 0x3F818000, 1])
    values = torch.cat([bits, odd]).to(torch.int32).view(torch.float32)
    width = HEADS * 64
    values = torch.nn.functional.pad(values, (0, -len(values) % (2 * width))).view(-1, 2 * width)
    step = Step.of([(len(values), len(values))], 64, cache_dtype=torch.bfloat16)
    step.kvq[:, : 2 * width] = values
    _, cache = step.attend()
    _, expected = step.attend(torch_paged_attention)
    number, nan = ~expected.isnan(), cache.isnan()
    assert torch.equal(nan, ~number)
    assert same_bits(cache[number], expected[number])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_hidden(level, value):
    step = Step.of([(40, 1), (70, 70), (30, 1)], 64)
    step.kvq[0, 2 * HEADS * 64] = value  # a query
    step.kvq[20, HEADS * 64 + 3] = value  # a value of the second sequence, at position 19
    out, _ = step.attend()
    assert not out[0].isfinite().all()
    assert not out[20:71, 3].isfinite().any()
    assert out[-1].isfinite().all()


def test_very_large_and_very_small_scores(level):
    step = Step.of([(300, 1), (90, 90)], 64)
    step.kvq[:, 2 * HEADS * 64 :] *= 1000
    out, _ = step.attend()
    expected, _ = step.attend(torch_paged_attention)
    # fp32 scores near 1e4 have steps of 1e-3: that much of a weight's logarithm is chance.
    assert (out - expected).abs().max() < 2e-2


def test_what_the_kernel_lacks_is_refused(level):
    with pytest.raises(ValueError, match="heads of 24"):
        Step.of([(20, 1)], 24).attend()


def test_without_kernels_it_says_how_to_have_them(switch):
    switch("off")
    with pytest.raises(UsageError, match="not compiled"):
        Step.of([(20, 1), (30, 20)], 64).attend()
