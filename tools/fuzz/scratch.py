"""Where inputs are written that a reader wants as files."""

from __future__ import annotations

from functools import cache

from unshard.testing.scratch import Scratch


@cache
def scratch() -> Scratch:
    """That of the whole run: libFuzzer ends the process without a word to Python."""
    return Scratch.in_memory("fuzz-")
