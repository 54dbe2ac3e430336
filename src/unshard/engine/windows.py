"""How a document that is longer than the context is read: a window that slides over it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens `start` to `end` of a document, read at once; those from `first` on are scored."""

    start: int
    first: int
    end: int


def windows(num_tokens: int, size: int, stride: int) -> Iterator[Window]:
    """Windows that score each of `num_tokens` tokens once, in order; none for no tokens.

    The first scores `size` tokens, each other the next `stride` (at most `size`), with the `size`
    less those it scores in front of them.
    """
    scored = 0
    while scored < num_tokens:
        end = min(num_tokens, scored + stride if scored else size)
        yield Window(max(0, end - size), scored, end)
        scored = end
