"""What rank 0 tells the other ranks to compute next, as a few numbers."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from itertools import chain

from unshard.engine.block_table import num_blocks_for
from unshard.engine.step import Chunk, StepLayout

STOP, IDLE, STEP, LOGITS, WIPE = range(5)
"""The first number of a message."""


@dataclass(frozen=True, slots=True)
class StepMessage:
    """A step: its tokens, where they belong, and how many of each sequence are asked for."""

    token_ids: Rows[int]
    layout: StepLayout
    num_kept: Rows[int]

    @classmethod
    def of(cls, chunks: Rows[Chunk]) -> StepMessage:
        ids = [token_id for chunk in chunks for token_id in chunk.token_ids]
        return cls(ids, StepLayout.of(chunks), [chunk.num_kept for chunk in chunks])

    def numbers(self) -> list[int]:
        """[STEP, sequences, then of each its rows, the kept ones, its context; blocks of each,
        token ids]."""
        layout = self.layout
        blocks = chain.from_iterable(
            table[: num_blocks_for(context)]
            for table, context in zip(layout.tables, layout.context_lengths, strict=True)
        )
        counts = (*layout.num_new, *self.num_kept, *layout.context_lengths)
        return [STEP, len(layout.num_new), *counts, *blocks, *self.token_ids]

    @classmethod
    def read(cls, numbers: Rows[int]) -> StepMessage:
        """The message that says `numbers`."""
        count = numbers[1]
        ends = range(2 + count, 3 + 3 * count, count)
        num_new, num_kept, contexts = (numbers[end - count : end] for end in ends)
        tables, at = [], 2 + 3 * count
        for context in contexts:
            tables.append(numbers[at : at + num_blocks_for(context)])
            at += len(tables[-1])
        layout = StepLayout(tuple(tables), tuple(num_new), tuple(contexts))
        return cls(numbers[at:], layout, num_kept)


@dataclass(frozen=True, slots=True)
class LogitsMessage:
    """Logits of `num_rows` hidden states, which follow."""

    num_rows: int

    def numbers(self) -> list[int]:
        return [LOGITS, self.num_rows]


@dataclass(frozen=True, slots=True)
class WipeMessage:
    """Blocks to zero."""

    blocks: tuple[int, ...]

    def numbers(self) -> list[int]:
        return [WIPE, *self.blocks]
