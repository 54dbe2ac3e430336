"""What one step of the model computes: new tokens of several sequences, at once."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Rows
from dataclasses import dataclass

from unshard.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of one sequence, from the first that is not in the cache: `start` to `end`."""

    sequence: Sequence
    start: int
    end: int

    @classmethod
    def next_of(cls, sequence: Sequence, most: int) -> Chunk:
        """The next tokens of `sequence`, `most` at most."""
        start = sequence.num_cached
        return cls(sequence, start, min(start + most, len(sequence.token_ids)))

    @property
    def num_tokens(self) -> int:
        return self.end - self.start

    @property
    def token_ids(self) -> list[int]:
        return self.sequence.token_ids[self.start : self.end]

    @property
    def decodes(self) -> bool:
        """Whether it is one generated token, whose past is all in the cache."""
        return self.num_tokens == 1 and self.start >= len(self.sequence.request.prompt_ids)

    @property
    def num_kept(self) -> int:
        """Its last rows whose hidden states are asked for; of a prompt that is not scored, one."""
        return self.num_tokens if self.sequence.wants_prompt_scores else 1

    @property
    def completes(self) -> bool:
        """Whether the token after them is to be chosen."""
        return self.end == len(self.sequence.token_ids)


@dataclass(frozen=True, slots=True)
class StepLayout:
    """Where the rows of a step belong. Row by row: all new tokens of the first sequence, then
    the second's. Sequences with one new token come first, by length."""

    tables: tuple[Rows[int], ...]
    """Each sequence's blocks, at least as many as its context needs."""
    num_new: tuple[int, ...]
    """Rows of each sequence."""
    context_lengths: tuple[int, ...]
    """Tokens of each sequence with the new ones."""

    @classmethod
    def of(cls, chunks: Rows[Chunk]) -> StepLayout:
        return cls(
            tuple(chunk.sequence.table.blocks for chunk in chunks),
            tuple(chunk.num_tokens for chunk in chunks),
            tuple(chunk.end for chunk in chunks),
        )


def in_row_order(chunks: Iterable[Chunk]) -> list[Chunk]:
    """`chunks` in the order in which attention computes them best."""
    return sorted(chunks, key=lambda chunk: (chunk.num_tokens > 1, chunk.end))
