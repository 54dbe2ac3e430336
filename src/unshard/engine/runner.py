"""The model and its cache on one device: sequences in, hidden states and logits out."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch
from torch import Tensor

from unshard.engine.kv_cache import KVCache
from unshard.engine.sequence import Sequence
from unshard.models.opt import OPTModel


class Runner:
    """Runs steps of `model`, a finalized one, for at most `num_slots` sequences at once."""

    def __init__(self, model: OPTModel, num_slots: int) -> None:
        self.config = model.config
        self.num_slots = num_slots
        self._model = model
        self._cache = KVCache(model.config, num_slots, model.dtype, model.device)

    def prefill(self, sequences: Rows[Sequence], first_slot: int) -> Tensor:
        """Hidden states of all tokens, one sequence after another: (T, E).

        Keys and values go to the slots from `first_slot` on.
        """
        lengths = [len(sequence.token_ids) for sequence in sequences]
        ids = [token_id for sequence in sequences for token_id in sequence.token_ids]
        positions = torch.cat([torch.arange(n, device=self._model.device) for n in lengths])
        attention = self._cache.prefill(first_slot, lengths)
        hidden = self._model.hidden_states(self._ints(ids), positions, attention)
        for sequence, length in zip(sequences, lengths, strict=True):
            sequence.num_cached = length
        return hidden

    def decode(self, sequences: Rows[Sequence]) -> Tensor:
        """Hidden states of the newest token of each sequence: (n, E); slot i is sequence i's."""
        lengths = [len(sequence.token_ids) for sequence in sequences]
        ids = self._ints([sequence.token_ids[-1] for sequence in sequences])
        attention = self._cache.decode(lengths)
        hidden = self._model.hidden_states(ids, self._ints([n - 1 for n in lengths]), attention)
        for sequence, length in zip(sequences, lengths, strict=True):
            sequence.num_cached = length
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """(R, E) -> (R, V) fp32."""
        return self._model.logits(hidden)

    def move(self, source: int, destination: int, num_tokens: int) -> None:
        """Move the first `num_tokens` cached tokens of one slot to another."""
        self._cache.move(source, destination, num_tokens)

    def _ints(self, values: Rows[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._model.device)
