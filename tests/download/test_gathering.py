"""Gathering changes the size of chunks, never the bytes, and loses none at an error."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unshard.download.gathering import GATHER_BYTES, gathered
from unshard.download.response import InterruptedTransferError

PIECES = st.lists(st.integers(1, GATHER_BYTES + 9).map(lambda n: bytes([n % 256]) * n), max_size=9)


@given(PIECES)
def test_the_bytes_are_the_same_and_the_chunks_large(pieces: list[bytes]) -> None:
    chunks = list(gathered(pieces, clock=lambda: 0.0))
    assert b"".join(chunks) == b"".join(pieces)
    assert all(len(chunk) >= GATHER_BYTES for chunk in chunks[:-1])


@given(PIECES)
def test_nothing_that_came_is_lost_when_the_connection_breaks(pieces: list[bytes]) -> None:
    def broken() -> Iterator[bytes]:
        yield from pieces
        raise InterruptedTransferError("cut")

    received: list[bytes] = []
    with pytest.raises(InterruptedTransferError):
        received.extend(gathered(broken()))
    assert b"".join(received) == b"".join(pieces)


def test_a_slow_line_is_heard_of_each_half_second() -> None:
    seconds = (tick / 10 for tick in count())
    assert len(list(gathered([b"x"] * 40, clock=lambda: next(seconds)))) > 5
