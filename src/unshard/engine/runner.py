"""The model and its cache on one device: chunks of sequences in, hidden states and logits out."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch
from torch import Tensor

from unshard.engine.kernel_attention import KernelAttention, PagedKernel
from unshard.engine.lone_attention import LoneCopy
from unshard.engine.paged_cache import PagedCache
from unshard.engine.step import Chunk, StepLayout
from unshard.engine.torch_attention import TorchAttention
from unshard.models.attention import Attention
from unshard.models.opt import OPTModel


class Runner:
    """Runs steps of `model`, a finalized one, whose keys and values are in `cache`."""

    def __init__(
        self, model: OPTModel, cache: PagedCache, kernel: PagedKernel | None = None
    ) -> None:
        """`kernel` attends over `cache`; None leaves that to torch."""
        self.config = model.config
        self.num_blocks = cache.num_blocks
        self._model = model
        self._cache = cache
        self._kernel = kernel
        # A GPU's memory is taken at once, and its copies are fast.
        copies = kernel is None and model.device.type == "cpu"
        self._lone = LoneCopy(cache, model.config.max_positions) if copies else None

    def run(self, chunks: Rows[Chunk]) -> Tensor:
        """Hidden states of all tokens of `chunks`, one chunk after another: (T, E).

        Their keys and values go to the blocks of their sequences.
        """
        ids = self._ints([token_id for chunk in chunks for token_id in chunk.token_ids])
        places = self._ints([p for chunk in chunks for p in range(chunk.start, chunk.end)])
        if self._lone is None or not _is_lone(chunks):
            return self._model.hidden_states(ids, places, self._attention(chunks))
        hidden = self._model.hidden_states(ids, places, self._lone.attention(chunks[0]))
        self._lone.done(chunks[0])
        return hidden

    def _attention(self, chunks: Rows[Chunk]) -> Attention:
        layout = StepLayout.of(chunks)
        if self._kernel is None:
            return TorchAttention(self._cache.layers, layout)
        return KernelAttention(self._kernel, self._cache.layers, layout)

    def logits(self, hidden: Tensor) -> Tensor:
        """(R, E) -> (R, V) fp32."""
        return self._model.logits(hidden)

    def wipe(self, blocks: Rows[int]) -> None:
        """Zero blocks of the cache that may hold anything, NaN too."""
        self._cache.wipe(blocks)

    def _ints(self, values: Rows[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._model.device)


def _is_lone(chunks: Rows[Chunk]) -> bool:
    """Whether one sequence decodes, alone."""
    return len(chunks) == 1 and chunks[0].num_tokens == 1 and chunks[0].start > 0
