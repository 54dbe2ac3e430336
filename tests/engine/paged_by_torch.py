"""The attention that computes where there is no kernel, called as a kernel is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from unshard.engine.step import StepLayout
from unshard.engine.torch_attention import TorchAttention
from unshard.models.attention import Attention


def paged_attention(
    kvq: Tensor,
    cache: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lengths: Tensor,
    num_heads: int,
) -> Tensor:
    """One layer's attention of a step: writes the new keys and values into their blocks, then
    each query attends causally to its sequence's context.

    Args:
        kvq: (T, 3D), row = [K | V | Q] of one token.
        cache: (num_blocks, 2, num_heads, 16, head_dim), K then V; written to.
        block_tables: (S, max_blocks) int32; what lies beyond a context is not read.
        query_starts: (S + 1,) int32, the first row of each sequence, then T.
        context_lengths: (S,) int32, the new tokens counted in.
        num_heads: as in `cache`.

    Returns:
        (T, D).
    """
    if cache.shape[2] != num_heads:
        raise ValueError(f"the cache has {cache.shape[2]} heads, not {num_heads}")
    num_new = tuple(end - start for start, end in pairwise(query_starts.tolist()))
    layout = StepLayout(tuple(block_tables.tolist()), num_new, tuple(context_lengths.tolist()))
    return TorchAttention([cache], layout)(0, kvq)


def paged_kernel(
    caches: Sequence[Tensor], block_tables: Tensor, query_starts: Tensor, context_lengths: Tensor
) -> Attention:
    """The same for a step."""

    def attend(layer: int, kvq: Tensor) -> Tensor:
        cache = caches[layer]
        step = block_tables, query_starts, context_lengths
        return paged_attention(kvq, cache, *step, cache.shape[2])

    return attend
