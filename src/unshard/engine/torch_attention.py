"""Attention over the block cache with torch's own operations: the reference, and what computes
where there is no kernel for it.

A sequence's blocks are copied together into a buffer that stays in the processor's caches, and
attended to there, without the padding that a cache without blocks needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from unshard.engine.block_pool import BLOCK_TOKENS
from unshard.engine.block_table import num_blocks_for
from unshard.engine.step import StepLayout
from unshard.models.attention import causal_attention

GROUP_BYTES = 1 << 21
"""How much of a cache's layer is copied together at once: about a core's own cache."""
LEAST_FULL = 0.75
"""Sequences are computed together when the shortest has this share of the longest's blocks."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Sequences with the same number of new rows, attended to together."""

    rows: slice
    """Their rows in the step."""
    size: int
    blocks: Tensor
    """(size * 2H * num_blocks,): which rows of (16 * head_dim) to copy, head by head."""
    longest: int
    """Tokens of the longest context."""
    mask: Tensor | None
    """Added to the scores: (size, 1, new rows, longest); None where every key counts."""


class TorchAttention:
    """Attention of one step: any mixture of new prompts, further chunks of prompts and single
    tokens. What is the same in every layer is worked out once."""

    def __init__(self, layers: Sequence[Tensor], layout: StepLayout) -> None:
        """`layers` are the cache, (num_blocks, 2, H, 16, head_dim) each; written to."""
        self._layers = layers
        self._written = _written_rows(layers[0], layout)
        starts = [0, *accumulate(layout.num_new)]
        spans = [slice(*span) for span in pairwise(starts)]
        lengths = list(zip(layout.num_new, layout.context_lengths, strict=True))
        # A sequence whose whole context is new need not look into the cache.
        self._fresh = [spans[i] for i, (new, context) in enumerate(lengths) if new == context]
        with_past = [i for i, (new, context) in enumerate(lengths) if new < context]
        self._groups = [
            _group(layers[0], layout, run, slice(spans[run[0]].start, spans[run[-1]].stop))
            for run in _alike(layers[0], layout, with_past)
        ]

    def __call__(self, layer: int, kvq: Tensor) -> Tensor:
        cache = self._layers[layer]
        heads, head_dim = cache.shape[2], cache.shape[4]
        rows = kvq.to(cache.dtype).view(kvq.shape[0], 3 * heads, head_dim)
        written = rows[:, : 2 * heads].reshape(-1, head_dim)
        cache.view(-1, head_dim).index_copy_(0, self._written, written)
        parts = {own.start: causal_attention(kvq[own], heads) for own in self._fresh}
        for group in self._groups:
            out = _attend(cache, rows[group.rows, 2 * heads :], group)
            parts[group.rows.start] = out.to(kvq.dtype)
        if len(parts) == 1:
            return parts.popitem()[1]
        return torch.cat([part for _, part in sorted(parts.items())])


def _written_rows(cache: Tensor, layout: StepLayout) -> Tensor:
    """Rows of the cache, seen as (num_blocks * 2H * 16, head_dim), that the new K and V go to,
    token by token: (T * 2H,)."""
    blocks, offsets = [], []
    for table, new, context in zip(
        layout.tables, layout.num_new, layout.context_lengths, strict=True
    ):
        for position in range(context - new, context):
            blocks.append(table[position // BLOCK_TOKENS])
            offsets.append(position % BLOCK_TOKENS)
    heads = _heads(cache)
    first = torch.tensor([blocks, offsets], device=cache.device)
    block, offset = first[0, :, None], first[1, :, None]
    return ((block * len(heads) + heads) * BLOCK_TOKENS + offset).view(-1)


def _alike(cache: Tensor, layout: StepLayout, numbers: Sequence[int]) -> Iterator[list[int]]:
    """`numbers` in runs of neighbours that are worth attending to together."""
    block_bytes = cache[0].numel() * cache.dtype.itemsize
    num_blocks = [num_blocks_for(context) for context in layout.context_lengths]
    run: list[int] = []
    for number in numbers:
        if run:
            fewest, most = sorted((num_blocks[run[0]], num_blocks[number]))
            together = (
                run[-1] == number - 1
                and layout.num_new[number] == layout.num_new[run[0]] == 1
                and most * (len(run) + 1) * block_bytes <= GROUP_BYTES
                and fewest >= LEAST_FULL * most
            )
            if not together:
                yield run
                run = []
        run.append(number)
    if run:
        yield run


def _group(cache: Tensor, layout: StepLayout, members: list[int], rows: slice) -> _Group:
    contexts = [layout.context_lengths[i] for i in members]
    longest, new = max(contexts), layout.num_new[members[0]]
    num_blocks = num_blocks_for(longest)
    heads = _heads(cache)
    tables = [_padded(layout.tables[i], layout.context_lengths[i], num_blocks) for i in members]
    blocks = (
        torch.tensor(tables, device=cache.device)[:, None] * len(heads) + heads[:, None]
    ).view(-1)
    mask = None
    if new > 1 or min(contexts) < longest:
        # Query i of a sequence sees its first (context - new + i + 1) keys.
        seen = torch.tensor(contexts, device=cache.device)[:, None] - new + 1
        seen = seen + torch.arange(new, device=cache.device)
        hidden = torch.arange(longest, device=cache.device) >= seen[:, None, :, None]
        mask = torch.zeros(hidden.shape, dtype=cache.dtype, device=cache.device)
        mask.masked_fill_(hidden, float("-inf"))
    return _Group(rows, len(members), blocks, longest, mask)


def _padded(table: Sequence[int], context: int, num_blocks: int) -> list[int]:
    """The blocks of `context` tokens; masked places show the first block again."""
    used = list(table[: num_blocks_for(context)])
    return used + used[:1] * (num_blocks - len(used))


def _attend(cache: Tensor, queries: Tensor, group: _Group) -> Tensor:
    """`queries` (n, H, head_dim) of `group` to their contexts: (n, D)."""
    num_rows, heads, head_dim = queries.shape
    gathered = cache.view(-1, BLOCK_TOKENS * head_dim).index_select(0, group.blocks)
    past = gathered.view(group.size, 2 * heads, -1, head_dim)[:, :, : group.longest]
    q = queries.reshape(group.size, -1, heads, head_dim).transpose(1, 2)
    out = F.scaled_dot_product_attention(q, past[:, :heads], past[:, heads:], attn_mask=group.mask)
    return out.transpose(1, 2).reshape(num_rows, heads * head_dim)


def _heads(cache: Tensor) -> Tensor:
    """Numbers of a block's K heads and V heads: (2H,)."""
    return torch.arange(2 * cache.shape[2], device=cache.device)
