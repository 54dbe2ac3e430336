"""The model and its cache on one device: chunks of sequences in, hidden states and logits out."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch
from torch import Tensor

from unshard.engine.lone_attention import LoneCopy
from unshard.engine.paged_cache import PagedCache
from unshard.engine.step import Chunk, StepLayout
from unshard.engine.torch_attention import TorchAttention
from unshard.models.opt import OPTModel


class Runner:
    """Runs steps of `model`, a finalized one, whose keys and values are in `cache`."""

    def __init__(self, model: OPTModel, cache: PagedCache) -> None:
        self.config = model.config
        self.num_blocks = cache.num_blocks
        self._model = model
        self._cache = cache
        self._lone = LoneCopy(cache, model.config.max_positions)

    def run(self, chunks: Rows[Chunk]) -> Tensor:
        """Hidden states of all tokens of `chunks`, one chunk after another: (T, E).

        Their keys and values go to the blocks of their sequences.
        """
        ids = [token_id for chunk in chunks for token_id in chunk.token_ids]
        positions = [place for chunk in chunks for place in range(chunk.start, chunk.end)]
        inputs = self._ints(ids), self._ints(positions)
        if len(chunks) == 1 and chunks[0].start and chunks[0].num_tokens == 1:
            hidden = self._model.hidden_states(*inputs, self._lone.attention(chunks[0]))
            self._lone.done(chunks[0])
            return hidden
        attention = TorchAttention(self._cache.layers, StepLayout.of(chunks))
        return self._model.hidden_states(*inputs, attention)

    def logits(self, hidden: Tensor) -> Tensor:
        """(R, E) -> (R, V) fp32."""
        return self._model.logits(hidden)

    def wipe(self, blocks: Rows[int]) -> None:
        """Zero blocks of the cache that may hold anything, NaN too."""
        self._cache.wipe(blocks)

    def _ints(self, values: Rows[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._model.device)
