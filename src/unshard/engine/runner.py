"""The model and its cache on one device: chunks of sequences in, hidden states and logits out."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from itertools import accumulate

import torch
from torch import Tensor

from unshard.engine.graphs import DecodeGraphs, Record
from unshard.engine.kernel_attention import PagedKernel, kernel_attention
from unshard.engine.lone_attention import LoneCopy
from unshard.engine.messages import StepMessage
from unshard.engine.paged_cache import PagedCache
from unshard.engine.step import Chunk, StepLayout
from unshard.engine.torch_attention import TorchAttention
from unshard.models.attention import Attention
from unshard.models.opt import OPTModel


class Runner:
    """Runs steps of `model`, a finalized one, whose keys and values are in `cache`."""

    def __init__(
        self,
        model: OPTModel,
        cache: PagedCache,
        kernel: PagedKernel | None = None,
        record: Record | None = None,
    ) -> None:
        """`kernel` attends over `cache`; None leaves that to torch, whose steps of single tokens
        `record` records."""
        self.config = model.config
        self.num_blocks = cache.num_blocks
        self.most_unused = cache.most_unused
        self._model = model
        self._cache = cache
        self._kernel = kernel
        self._graphs = None if record is None else DecodeGraphs(model, cache, record)
        # A GPU's memory is taken at once, and its copies are fast.
        copies = kernel is None and record is None and model.device.type == "cpu"
        self._lone = LoneCopy(cache, model.config.max_positions) if copies else None

    def run(self, chunks: Rows[Chunk]) -> Tensor:
        """Hidden states of the last `num_kept` tokens of each of `chunks`, one chunk after
        another: (R, E).

        All tokens' keys and values go to the blocks of their sequences.
        """
        if self._lone is None or not _is_lone(chunks):
            step = StepMessage.of(chunks)
            return self.compute(step.token_ids, step.layout, step.num_kept)
        ids, places = self._ints(chunks[0].token_ids), self._ints([chunks[0].start])
        hidden = self._model.hidden_states(ids, places, self._lone.attention(chunks[0]))
        self._lone.done(chunks[0])
        return hidden

    def compute(
        self, token_ids: Rows[int], layout: StepLayout, num_kept: Rows[int] | None = None
    ) -> Tensor:
        """The same for a step that is known by its numbers alone; without `num_kept`, the hidden
        states of all tokens. Valid until the next step."""
        if self._graphs is not None:
            hidden = self._graphs.run(token_ids, layout)
            if hidden is not None:
                return hidden
        spans = zip(layout.num_new, layout.context_lengths, strict=True)
        kept = None
        if num_kept is not None and sum(num_kept) < len(token_ids):
            ends = zip(accumulate(layout.num_new), num_kept, strict=True)
            kept = self._ints([row for end, count in ends for row in range(end - count, end)])
        places = [place for new, end in spans for place in range(end - new, end)]
        ids, positions = self._ints([*token_ids, *places]).split(len(token_ids))
        return self._model.hidden_states(ids, positions, self._attention(layout), kept)

    def _attention(self, layout: StepLayout) -> Attention:
        if self._kernel is None:
            return TorchAttention(self._cache.layers, layout)
        return kernel_attention(self._kernel, self._cache.layers, layout)

    def logits(self, hidden: Tensor) -> Tensor:
        """(R, E) -> (R, V) fp32."""
        return self._model.logits(hidden)

    @property
    def shares_logits(self) -> bool:
        """Whether `logits` takes all ranks of the model's group."""
        return self._model.splits_vocabulary

    def empty_hidden(self, num_rows: int) -> Tensor:
        """Room for hidden states: (num_rows, E)."""
        shape = (num_rows, self.config.embedding_size)
        return torch.empty(shape, dtype=self._model.dtype, device=self._model.device)

    def wipe(self, blocks: Rows[int]) -> None:
        """Zero blocks of the cache that may hold anything, NaN too."""
        self._cache.wipe(blocks)

    def _ints(self, values: Rows[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._model.device)


def _is_lone(chunks: Rows[Chunk]) -> bool:
    """Whether one sequence decodes, alone."""
    return len(chunks) == 1 and chunks[0].num_tokens == 1 and chunks[0].start > 0
