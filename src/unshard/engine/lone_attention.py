"""Attention of a sequence that decodes alone, without copying its blocks together every step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from unshard.engine.block_pool import BLOCK_TOKENS
from unshard.engine.block_table import num_blocks_for
from unshard.engine.paged_cache import PagedCache, zeros
from unshard.engine.step import Chunk


class LoneCopy:
    """Keys and values of one sequence in one piece, beside its blocks: what `TorchAttention`
    would copy together for each token is kept, and grows with the sequence.

    One tensor per layer, (2H, tokens, head_dim); on a CPU memory is taken as far as it is used.
    """

    def __init__(self, cache: PagedCache, max_positions: int) -> None:
        self._cache = cache
        _, _, heads, _, head_dim = cache.layers[0].shape
        shape = (2 * heads, num_blocks_for(max_positions) * BLOCK_TOKENS, head_dim)
        self._layers = [zeros(shape, cache.dtype, cache.device) for _ in cache.layers]
        self._holds: tuple[int, int] | None = None
        """Whose tokens (by arrival) and how many."""

    def attention(self, chunk: Chunk) -> LoneAttention:
        """Attention of a step that is `chunk` alone, one token with a past."""
        blocks = chunk.sequence.table.blocks
        if self._holds != (chunk.sequence.arrival, chunk.start):
            self._fill(blocks, chunk.start)
        # Until the step is done, layers differ in length.
        self._holds = None
        return LoneAttention(self._cache.layers, self._layers, blocks, chunk.end)

    def done(self, chunk: Chunk) -> None:
        """All layers have the token of `chunk`."""
        self._holds = chunk.sequence.arrival, chunk.end

    def _fill(self, blocks: Sequence[int], length: int) -> None:
        used = torch.tensor(blocks[: num_blocks_for(length)], device=self._cache.device)
        for cache, copy in zip(self._cache.layers, self._layers, strict=True):
            pieces = copy.view(len(copy), -1, *cache.shape[3:])[:, : len(used)]
            pieces.copy_(cache[used].flatten(1, 2).transpose(0, 1))


class LoneAttention:
    """Attention of one new token, the last of `length`; it is written to both places."""

    def __init__(
        self, cache: Sequence[Tensor], copy: Sequence[Tensor], blocks: Sequence[int], length: int
    ) -> None:
        self._cache = cache
        self._copy = copy
        self._block = blocks[(length - 1) // BLOCK_TOKENS]
        self._offset = (length - 1) % BLOCK_TOKENS
        self._length = length

    def __call__(self, layer: int, kvq: Tensor) -> Tensor:
        cache, copy = self._cache[layer], self._copy[layer]
        heads, head_dim = cache.shape[2], cache.shape[4]
        new = kvq.to(cache.dtype).view(3 * heads, head_dim)
        k_and_v = new[: 2 * heads]
        cache[self._block, :, :, self._offset] = k_and_v.view(2, heads, head_dim)
        copy[:, self._length - 1] = k_and_v
        past = copy[None, :, : self._length]
        q = new[None, 2 * heads :, None]
        out = F.scaled_dot_product_attention(q, past[:, :heads], past[:, heads:])
        return out.view(1, heads * head_dim).to(kvq.dtype)
