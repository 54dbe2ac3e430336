"""The law of attention: blocks, chunks and neighbours change nothing."""

import random

import pytest
import torch
from tests.engine.paged_by_torch import paged_attention

from unshard.engine.step import StepLayout
from unshard.engine.torch_attention import TorchAttention

HEADS, HEAD_DIM, LAYERS = 3, 8, 2
WIDTH = HEADS * HEAD_DIM


def plain_attention(k, v, q, num_past):
    """Query by query and head by head, in fp64: k, v (context, D), q (new, D) -> (new, D)."""
    k, v, q = (x.double().view(len(x), HEADS, HEAD_DIM) for x in (k, v, q))
    out = torch.zeros(len(q), HEADS, HEAD_DIM, dtype=torch.float64)
    for row in range(len(q)):
        for head in range(HEADS):
            scores = k[: num_past + row + 1, head] @ q[row, head] / HEAD_DIM**0.5
            out[row, head] = scores.softmax(0) @ v[: num_past + row + 1, head]
    return out.view(len(q), WIDTH)


class Step:
    """A step of sequences with `pasts` cached and `news` new tokens, in scattered blocks."""

    def __init__(self, pasts, news, seed):
        generator = torch.Generator().manual_seed(seed)
        contexts = [past + new for past, new in zip(pasts, news, strict=True)]
        counts = [-(-context // 16) for context in contexts]
        free = random.Random(seed).sample(range(sum(counts) + 3), sum(counts))
        tables = [[free.pop() for _ in range(count)] for count in counts]
        self.layout = StepLayout(tuple(tables), tuple(news), tuple(contexts))
        # What was there before is large: whoever reads too far is seen.
        self.cache = torch.randn(sum(counts) + 3, 2, HEADS, 16, HEAD_DIM, generator=generator) * 50
        self.kvqs = [torch.randn(context, 3 * WIDTH, generator=generator) for context in contexts]
        for table, kvq, past in zip(tables, self.kvqs, pasts, strict=True):
            for place in range(past):
                k_and_v = kvq[place, : 2 * WIDTH].view(2, HEADS, HEAD_DIM)
                self.cache[table[place // 16], :, :, place % 16] = k_and_v
        self.new = torch.cat([kvq[past:] for kvq, past in zip(self.kvqs, pasts, strict=True)])
        self.wanted = torch.cat(
            [
                plain_attention(*kvq[:, : 2 * WIDTH].split(WIDTH, 1), kvq[past:, 2 * WIDTH :], past)
                for kvq, past in zip(self.kvqs, pasts, strict=True)
            ]
        )


MIXTURES = {
    "one prompt": ([0], [21]),
    "a prompt of one token": ([0], [1]),
    "one token": ([37], [1]),
    "one token fills a block": ([31], [1]),
    "one token begins a block": ([32], [1]),
    "tokens of like lengths": ([60, 61, 64, 70], [1, 1, 1, 1]),
    "tokens of one length": ([47, 47, 47], [1, 1, 1]),
    "tokens of unlike lengths": ([1, 5, 100, 500], [1, 1, 1, 1]),
    "a further chunk": ([16], [40]),
    "a chunk within a block": ([19], [5]),
    "all at once": ([0, 15, 90, 95, 20, 0, 48], [1, 1, 1, 1, 33, 50, 2]),
    "in any order": ([20, 0, 15, 0, 90], [33, 50, 1, 1, 1]),
}


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("group_bytes", [0, 1 << 21])
def test_it_is_plain_attention(name, group_bytes, monkeypatch):
    monkeypatch.setattr("unshard.engine.torch_attention.GROUP_BYTES", group_bytes)
    step = Step(*MIXTURES[name], seed=len(name))
    layers = [torch.full_like(step.cache, 7.0), step.cache]
    out = TorchAttention(layers, step.layout)(1, step.new)
    torch.testing.assert_close(out.double(), step.wanted, rtol=0, atol=1e-5)
    assert (layers[0] == 7.0).all()


@pytest.mark.parametrize("name", MIXTURES)
def test_tensors_say_the_same_as_a_layout(name):
    step = Step(*MIXTURES[name], seed=3)
    longest = max(map(len, step.layout.tables))
    tables = [table + [-1] * (longest - len(table)) for table in step.layout.tables]
    starts = [0]
    for new in step.layout.num_new:
        starts.append(starts[-1] + new)
    ints = [
        torch.tensor(each, dtype=torch.int32)
        for each in (tables, starts, step.layout.context_lengths)
    ]
    out = paged_attention(step.new, step.cache, *ints, HEADS)
    torch.testing.assert_close(out.double(), step.wanted, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="heads"):
        paged_attention(step.new, step.cache, *ints, HEADS + 1)


def test_only_the_new_places_are_written():
    step = Step(*MIXTURES["all at once"], seed=5)
    before = step.cache.clone()
    TorchAttention([step.cache], step.layout)(0, step.new)
    changed = (step.cache != before).any(-1).any(1).any(1)
    wanted = torch.zeros_like(changed)
    for table, new, context in zip(
        step.layout.tables, step.layout.num_new, step.layout.context_lengths, strict=True
    ):
        for place in range(context - new, context):
            wanted[table[place // 16], place % 16] = True
    assert torch.equal(changed, wanted)


def test_bf16_rows_over_an_fp32_cache():
    step = Step(*MIXTURES["all at once"], seed=6)
    out = TorchAttention([step.cache], step.layout)(0, step.new.bfloat16())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), step.wanted, rtol=0.05, atol=0.05)
