"""Runs of one value: what a file looks like where it was allocated and never written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unshard.execute.element_values import Bits

PAGE_BYTES = 4096
"""What file systems and page caches lose or keep as a whole."""
MIN_ELEMENTS = 32
"""Shorter tensors can be constant by training alone."""


@dataclass(frozen=True, slots=True)
class ConstantRun:
    """Elements `[start, start + length)` of chunk number `chunk`, all of pattern `bits`."""

    chunk: int
    start: int
    length: int
    bits: int


def constant_runs(chunk: int, start: int, bits: Bits) -> list[ConstantRun]:
    """Whole pages of one value in a block that begins at element `start` of its chunk.

    A shorter last page counts like the others when it has at least `MIN_ELEMENTS`.
    """
    per_page = PAGE_BYTES // bits.itemsize
    num_pages = bits.size // per_page
    pages = bits[: num_pages * per_page].reshape(num_pages, per_page)
    candidates = np.flatnonzero(pages[:, 0] == pages[:, -1])
    same = candidates[(pages[candidates] == pages[candidates, :1]).all(axis=1)]
    found = [
        ConstantRun(chunk, start + page * per_page, per_page, int(pages[page, 0]))
        for page in same.tolist()
    ]
    rest = bits[num_pages * per_page :]
    if rest.size >= MIN_ELEMENTS and (rest == rest[0]).all():
        found.append(ConstantRun(chunk, start + bits.size - rest.size, rest.size, int(rest[0])))
    return found


def join_runs(runs: list[ConstantRun], more: list[ConstantRun]) -> None:
    """Appends `more` to `runs`, as one run where they continue each other."""
    for run in more:
        last = runs[-1] if runs else None
        if (
            last is not None
            and (last.chunk, last.bits) == (run.chunk, run.bits)
            and last.start + last.length == run.start
        ):
            runs[-1] = ConstantRun(last.chunk, last.start, last.length + run.length, last.bits)
        else:
            runs.append(run)
