"""What a text has said so far, kept as its penalties and its nucleus need it: in O(1) a token."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from unshard.engine.request import SamplingParams


class TokenCounts:
    """Which tokens there were, and how often each."""

    __slots__ = ("_counts", "_ids", "_places")

    def __init__(self, token_ids: Iterable[int] = ()) -> None:
        self._places: dict[int, int] = {}
        self._ids = np.zeros(16, dtype=np.int64)
        self._counts = np.zeros(16, dtype=np.float64)
        for token_id in token_ids:
            self.add(token_id)

    @property
    def ids(self) -> NDArray[np.int64]:
        """Each token once."""
        return self._ids[: len(self._places)]

    @property
    def counts(self) -> NDArray[np.float64]:
        """How often each of `ids` came."""
        return self._counts[: len(self._places)]

    def add(self, token_id: int) -> None:
        place = self._places.setdefault(token_id, len(self._places))
        if place == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[place] = token_id
        self._counts[place] += 1


class History:
    """The tokens of one text, its prompt's and those generated.

    What is counted is only what `params` ask for.
    """

    __slots__ = ("_sentence_ends", "generated", "num_generated", "prompt", "seen", "since_end")

    def __init__(
        self,
        params: SamplingParams,
        prompt_ids: tuple[int, ...],
        sentence_ends: frozenset[int] = frozenset(),
    ) -> None:
        """`sentence_ends` are the ids of the tokens ".", "?" and "!"."""
        source = params.source_penalties
        self.num_generated = 0
        self.since_end = 0
        """Tokens generated after the last that ended a sentence."""
        self.generated = TokenCounts() if params.penalizes else None
        self.prompt = None if source is None else TokenCounts(source.part_of(prompt_ids))
        self.seen = TokenCounts(prompt_ids) if params.repetition_penalty != 1 else None
        """Those of the whole prompt and those generated."""
        self._sentence_ends = sentence_ends

    def add(self, token_id: int) -> None:
        """`token_id` was generated."""
        self.num_generated += 1
        self.since_end = 0 if token_id in self._sentence_ends else self.since_end + 1
        for counts in (self.generated, self.seen):
            if counts is not None:
                counts.add(token_id)
