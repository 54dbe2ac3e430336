"""However the body is read, its bytes are the same, and none that came is lost at an error."""

from __future__ import annotations

import io
from collections.abc import Iterable
from itertools import count
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unshard.download import body as reading
from unshard.download.body import BUFFER_BYTES, GATHER_BYTES, BufferedResponse, GatheredResponse

PIECES = st.lists(st.integers(1, GATHER_BYTES + 9).map(lambda n: bytes([n % 256]) * n), max_size=4)
FEW = settings(max_examples=20)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


class Wire(io.RawIOBase):
    """Gives one piece at a time, then the end, or `failure` once."""

    def __init__(self, pieces: Iterable[bytes], failure: OSError | None = None) -> None:
        self._pieces = list(pieces)
        self._failure = failure

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        if not self._pieces:
            failure, self._failure = self._failure, None
            if failure:
                raise failure
            return 0
        piece = self._pieces.pop(0)
        taken = min(len(piece), len(buffer))
        buffer[:taken] = piece[:taken]
        if taken < len(piece):
            self._pieces.insert(0, piece[taken:])
        return taken

    def makefile(self, _mode: str) -> io.BufferedReader:
        """As `socket.makefile`."""
        return io.BufferedReader(self)

    def gettimeout(self) -> None:
        """For ever."""


def answer(wire: Wire, kind=GatheredResponse) -> BufferedResponse:
    response = kind(wire)
    response.begin()
    return response


def chunks(response: BufferedResponse) -> list[bytes]:
    return list(iter(lambda: bytes(response.read1(BUFFER_BYTES)), b""))


@FEW
@given(PIECES)
def test_the_bytes_are_the_same_and_the_chunks_large(pieces):
    body = b"".join(pieces)
    found = chunks(answer(Wire([HEAD % len(body), *pieces, b"of the next answer"])))
    assert b"".join(found) == body
    assert all(len(chunk) == GATHER_BYTES for chunk in found[:-1])


@FEW
@given(PIECES)
def test_without_tls_every_read_is_handed_over(pieces):
    body = b"".join(pieces)
    found = chunks(answer(Wire([HEAD % len(body), *pieces, b"next"]), BufferedResponse))
    assert b"".join(found) == body
    assert len(found) <= len(pieces) + 1  # the first of 8 KiB: so much can come with headers


@FEW
@given(PIECES)
def test_bytes_that_came_with_the_headers_are_the_first(pieces):
    body = b"".join(pieces)
    assert b"".join(chunks(answer(Wire([HEAD % len(body) + body])))) == body


@pytest.mark.parametrize("kind", [BufferedResponse, GatheredResponse])
@FEW
@given(pieces=PIECES)
def test_nothing_that_came_is_lost_when_the_connection_breaks(kind, pieces):
    body, received = b"".join(pieces), []
    response = answer(Wire([HEAD % (len(body) + 1), *pieces], TimeoutError("silent")), kind)
    with pytest.raises(TimeoutError, match="silent"):
        received.extend(bytes(response.read1(GATHER_BYTES)) for _ in range(99))
    assert b"".join(received) == body


@pytest.mark.parametrize("kind", [BufferedResponse, GatheredResponse])
@pytest.mark.parametrize("at_most", [7, BUFFER_BYTES])
def test_nor_is_what_came_with_the_headers(kind, at_most):
    response, received = (
        answer(Wire([HEAD % 10**6 + b"body" * 9], TimeoutError("silent")), kind),
        [],
    )
    with pytest.raises(TimeoutError, match="silent"):
        received.extend(bytes(response.read1(at_most)) for _ in range(99))
    assert b"".join(received) == b"body" * 9


def test_nor_is_what_was_read_ahead_at_the_end_of_a_chunk():
    """Records of TLS do not divide what is gathered."""
    came = bytes(range(256)) * (GATHER_BYTES // 256) + b"end" * 1700
    first = 16384 - 3000
    pieces = [came[:first], *(came[at : at + 16384] for at in range(first, len(came), 16384))]
    response, received = answer(Wire([HEAD % 10**6, *pieces], TimeoutError("silent"))), []
    with pytest.raises(TimeoutError, match="silent"):
        received.extend(bytes(response.read1(BUFFER_BYTES)) for _ in range(99))
    assert b"".join(received) == came


@FEW
@given(PIECES)
def test_a_body_that_ends_too_soon_ends(pieces):
    body = b"".join(pieces)
    assert b"".join(chunks(answer(Wire([HEAD % (len(body) + 1), *pieces])))) == body


def test_a_body_whose_length_is_not_told_is_all_that_comes():
    assert b"".join(chunks(answer(Wire([b"HTTP/1.1 200 OK\r\n\r\n", b"one", b"two"])))) == b"onetwo"


def test_a_slow_line_is_heard_of_each_half_second(monkeypatch):
    seconds = (tick / 10 for tick in count())
    monkeypatch.setattr(reading, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    assert len(chunks(answer(Wire([HEAD % 40, *[b"x"] * 40])))) > 5
