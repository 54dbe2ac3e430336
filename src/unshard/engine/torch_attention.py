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
        queries = _write(cache, kvq, self._written)
        parts = {own.start: causal_attention(kvq[own], cache.shape[2]) for own in self._fresh}
        for group in self._groups:
            parts[group.rows.start] = _attend(cache, queries[group.rows], group).to(kvq.dtype)
        if len(parts) == 1:
            return parts.popitem()[1]
        return torch.cat([part for _, part in sorted(parts.items())])


class DecodeAttention:
    """Attention of a step with one token of each sequence, worked out on the cache's device from
    tensors alone: of the same shapes whatever the contexts, so that the step can be recorded."""

    def __init__(self, layers: Sequence[Tensor], tables: Tensor, lengths: Tensor) -> None:
        """
        Args:
            layers: the cache, as of `TorchAttention`.
            tables: (S, n) int64, blocks; the n * 16 tokens are all read, those beyond a context
                multiplied by 0.
            lengths: (S,) int64, tokens of each context with the new one.
        """
        size, width = tables.shape
        last = (lengths - 1)[:, None]
        block = tables.gather(1, last // BLOCK_TOKENS)
        longest = width * BLOCK_TOKENS
        self._layers = layers
        self._written = _cache_rows(layers[0], block, last % BLOCK_TOKENS)
        self._group = _Group(
            slice(None),
            size,
            _copied_rows(layers[0], tables),
            longest,
            _mask(layers[0], lengths[:, None], longest),
        )

    def __call__(self, layer: int, kvq: Tensor) -> Tensor:
        cache = self._layers[layer]
        return _attend(cache, _write(cache, kvq, self._written), self._group).to(kvq.dtype)


def _write(cache: Tensor, kvq: Tensor, written: Tensor) -> Tensor:
    """Puts the new K and V of a layer to their places; the queries (T, H, head_dim)."""
    heads, head_dim = cache.shape[2], cache.shape[4]
    rows = kvq.to(cache.dtype).view(kvq.shape[0], 3 * heads, head_dim)
    new = rows[:, : 2 * heads].reshape(-1, head_dim)
    cache.view(-1, head_dim).index_copy_(0, written, new)
    return rows[:, 2 * heads :]


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
    first = torch.tensor([blocks, offsets], device=cache.device)
    return _cache_rows(cache, first[0, :, None], first[1, :, None])


def _cache_rows(cache: Tensor, block: Tensor, offset: Tensor) -> Tensor:
    """Rows of K and V of the tokens at `offset` (T, 1) of `block` (T, 1): (T * 2H,)."""
    heads = _heads(cache)
    return ((block * len(heads) + heads) * BLOCK_TOKENS + offset).view(-1)


def _copied_rows(cache: Tensor, tables: Tensor) -> Tensor:
    """`_Group.blocks` of `tables` (size, num_blocks)."""
    heads = _heads(cache)
    return (tables[:, None] * len(heads) + heads[:, None]).view(-1)


def _mask(cache: Tensor, seen: Tensor, longest: int) -> Tensor:
    """`_Group.mask` where query (i, j) sees its first `seen[i, j]` keys."""
    hidden = torch.arange(longest, device=cache.device) >= seen[:, None, :, None]
    mask = torch.zeros(hidden.shape, dtype=cache.dtype, device=cache.device)
    return mask.masked_fill_(hidden, float("-inf"))


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
    tables = [padded(layout.tables[i], layout.context_lengths[i], num_blocks) for i in members]
    blocks = _copied_rows(cache, torch.tensor(tables, device=cache.device))
    mask = None
    if new > 1 or min(contexts) < longest:
        # Query i of a sequence sees its first (context - new + i + 1) keys.
        seen = torch.tensor(contexts, device=cache.device)[:, None] - new + 1
        mask = _mask(cache, seen + torch.arange(new, device=cache.device), longest)
    return _Group(rows, len(members), blocks, longest, mask)


def padded(table: Sequence[int], context: int, num_blocks: int) -> list[int]:
    """The blocks of `context` tokens; masked places show the first block again: what is not a
    number in another sequence's block would be none when multiplied by 0, too."""
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
