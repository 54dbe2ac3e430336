"""Answers that no sane server gives, also to whoever has no manifest to find wrong bytes by: a file
gets its name when all of it has come by the rules, and else the run says what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from raw_server import RawServer

from unshard.download import PresignedTemplate, RetryPolicy, download
from unshard.errors import NoSpaceError, TransferError

CONTENT = b"PK\x03\x04" + bytes(range(256)) * 20
SIZE = len(CONTENT)
OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: %d\r\n" % SIZE
ETAG = b'ETag: "e"\r\n'
GOOD = OK + LENGTH + ETAG + b"\r\n" + CONTENT
CLOSE = b"Connection: close\r\n"
CHUNKS = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in (CONTENT[:9], CONTENT[9:])) + b"0\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"

Serve = Callable[[Callable[[bytes], bytes]], RawServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[RawServer] = []

    def start(answer: Callable[[bytes], bytes]) -> RawServer:
        servers.append(RawServer(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def fetch(server, target, *names, attempts=3):
    """Without a manifest."""
    template = PresignedTemplate.parse(
        f"{server.origin}/w/stubbed.pt?&Expires=4102444800&Signature=x"
    )
    retry = RetryPolicy(attempts=attempts, first_delay_s=0)
    download(
        template, names or ["a.pt"], target, retry=retry, max_connections=1, stall_timeout_s=20
    )


ODD = {
    "a part as if it were all": (
        OK + LENGTH + b"Content-Range: bytes 9-%d/99999\r\n" % (SIZE + 8),
        "part",
    ),
    "a part of unknown size": (
        OK + LENGTH + b"Content-Range: bytes 0-%d/*\r\n" % (SIZE - 1),
        "part",
    ),
    "nonsense as a part": (OK + LENGTH + b"Content-Range: all\r\n", "part"),
    "206 to who asked for all": (b"HTTP/1.1 206 Partial\r\n" + LENGTH, "HTTP 206"),
    "two lengths": (OK + LENGTH + b"Content-Length: 7\r\n", r"cut|how long"),
    "two lengths in one line": (OK + b"Content-Length: 7, %d\r\n" % SIZE, r"cut|how long"),
    "a negative length": (OK + b"Content-Length: -7\r\n" + CLOSE, "how long"),
    "a length with a sign": (OK + b"Content-Length: +%d\r\n" % SIZE + CLOSE, "how long"),
    "a length with a line": (OK + b"Content-Length: 5_124\r\n" + CLOSE, "how long"),
    "a length in words": (OK + b"Content-Length: much\r\n" + CLOSE, "how long"),
    "a length beyond any number": (
        OK + b"Content-Length: " + b"9" * 5000 + b"\r\n" + CLOSE,
        "how long",
    ),
    "no length": (OK + CLOSE, "how long"),
    "gzip": (OK + LENGTH + b"Content-Encoding: gzip\r\n", "compressed"),
    "a coding of its own": (OK + LENGTH + b"Content-Encoding: identity, x-own\r\n", "compressed"),
    "204": (b"HTTP/1.1 204 No Content\r\n", "HTTP 204"),
    "205": (b"HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n", "HTTP 205"),
    "304": (b"HTTP/1.1 304 Not Modified\r\n", "HTTP 304"),
    "101": (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n" + CLOSE, r"HTTP 101|cut"),
    "a redirect to itself": (
        b"HTTP/1.1 302 Found\r\nLocation: a.pt\r\nContent-Length: 0\r\n",
        "302",
    ),
    "a redirect to nowhere": (b"HTTP/1.1 308 Moved\r\nContent-Length: 0\r\n", "HTTP 308"),
    "a status beyond all": (b"HTTP/1.1 999 What\r\nContent-Length: 0\r\n", r"HTTP 999|cut"),
    "a date beyond all calendars": (
        b"HTTP/1.1 503 No\r\n" + LENGTH + b"Retry-After: 1 Jan %d 00:00:00 GMT\r\n" % 10**20,
        "HTTP 503",
    ),
    "no status": (b"HTTP/1.1 OK\r\n" + LENGTH + CLOSE, "cut"),
    "no HTTP at all": (CONTENT + CLOSE, "cut"),
    "HTTP/0.9": (b"PK hello\r\n" + CLOSE, "cut"),
    "nothing": (b"\x00" * 9 + CLOSE, "cut"),
    "a header without end": (OK + b"X: " + b"x" * 99_999 + b"\r\n" + CLOSE, "cut"),
    "headers without end": (OK + b"X: x\r\n" * 999 + CLOSE, "cut"),
    "a chunk of negative size": (OK + CHUNKED + CLOSE + b"\r\n-5\r\nPK", r"cut|how long"),
}
"""What goes before the body, and what is said of it."""


@pytest.mark.parametrize(("begin", "words"), ODD.values(), ids=ODD)
def test_an_odd_answer_is_named_and_nothing_of_it_kept(serve, tmp_path, begin, words):
    server = serve(lambda _: begin + b"\r\n" + CONTENT + b"\r\nConnection: close")
    with pytest.raises(TransferError, match=rf"a\.pt.*({words})") as e:
        fetch(server, tmp_path)
    assert "\n" not in e.value.message
    assert not list(tmp_path.glob("a.pt*"))


def test_a_length_that_no_disk_has(serve, tmp_path):
    server = serve(lambda _: OK + b"Content-Length: %d\r\n\r\n" % (10**17) + CONTENT * 200)
    with pytest.raises(NoSpaceError, match=r"a\.pt: needs 100000000000000000 bytes"):
        fetch(server, tmp_path)
    assert not list(tmp_path.glob("a.pt*"))


FINE = {
    "plain": GOOD,
    "the same length twice": OK + LENGTH + LENGTH + ETAG + b"\r\n" + CONTENT,
    "no reason": GOOD.replace(b" OK", b""),
    "all as a part": OK + b"Content-Range: bytes 0-%d/%d\r\n" % (SIZE - 1, SIZE) + GOOD[len(OK) :],
    "100 before it": b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + GOOD,
    "102 and 103 before it": b"HTTP/1.1 102 Wait\r\n\r\nHTTP/1.1 103 Hint\r\nLink: x\r\n\r\n"
    + GOOD,
    "more than was told": GOOD + b"junk that looks like nothing\r\n\r\n",
    "another answer behind it": GOOD + GOOD.replace(CONTENT, CONTENT[::-1]),
    "HTTP/1.0": GOOD.replace(b"HTTP/1.1", b"HTTP/1.0").replace(ETAG, CLOSE),
}


@pytest.mark.parametrize("answer", FINE.values(), ids=FINE)
def test_what_is_odd_and_by_the_rules_is_taken(serve, tmp_path, answer):
    """Two files over one connection: what is left of one answer is no part of the next."""
    fetch(serve(lambda _: answer), tmp_path, "a.pt", "b.pt")
    assert (tmp_path / "a.pt").read_bytes() == CONTENT
    assert (tmp_path / "b.pt").read_bytes() == CONTENT


def test_a_flood_of_interim_answers_is_no_answer(serve, tmp_path):
    flood = b"HTTP/1.1 103 Early Hints\r\n\r\n" * 5000
    with pytest.raises(TransferError, match=r"a\.pt.*cut"):
        fetch(serve(lambda _: flood), tmp_path)
    assert not list(tmp_path.glob("a.pt*"))


def part(start: int, *, headers: bytes = b"", length: int | None = None) -> bytes:
    """The rest from `start` on, with a Content-Range unless `headers` has it."""
    place = b"Content-Range: bytes %d-%d/%d\r\n" % (start, SIZE - 1, SIZE)
    body = CONTENT[start:]
    told = b"Content-Length: %d\r\n" % (len(body) if length is None else length)
    return b"HTTP/1.1 206 Part\r\n" + ETAG + (headers or place) + told + b"\r\n" + body


MULTIPART = b"Content-Type: multipart/byteranges; boundary=x\r\n"
ODD_PARTS = {
    "no place": part(2000, headers=b"X: x\r\n"),
    "several parts": part(2000, headers=MULTIPART),
    "a byte too early": part(1999),
    "another place than its bytes": part(
        2001, headers=b"Content-Range: bytes 2000-%d/%d\r\n" % (SIZE - 1, SIZE)
    ),
    "another size": part(2000, headers=b"Content-Range: bytes 2000-%d/9999\r\n" % (SIZE - 1)),
    "an unknown size": part(2000, headers=b"Content-Range: bytes 2000-%d/*\r\n" % (SIZE - 1)),
    "other units": part(2000, headers=b"Content-Range: lines 2000-%d/%d\r\n" % (SIZE - 1, SIZE)),
    "backwards": part(2000, headers=b"Content-Range: bytes %d-2000/%d\r\n" % (SIZE - 1, SIZE)),
    "another length": part(2000, length=9),
    "another ETag": part(2000).replace(b'"e"', b'"f"'),
    "a weak ETag": part(2000).replace(b'"e"', b'W/"e"'),
    "no ETag": part(2000).replace(ETAG, b""),
    "416": b"HTTP/1.1 416 No\r\nContent-Range: bytes */%d\r\nContent-Length: 0\r\n\r\n" % SIZE,
    "416 of another size": b"HTTP/1.1 416 No\r\nContent-Range: bytes */7\r\n" + CLOSE + b"\r\n",
}


@pytest.mark.parametrize("odd", ODD_PARTS.values(), ids=ODD_PARTS)
def test_an_odd_part_is_not_put_behind_what_is_there(serve, tmp_path, odd):
    def answer(head: bytes) -> bytes:
        if b"\r\nRange:" not in head:
            cut = next(cuts, False)
            return GOOD.replace(LENGTH, LENGTH + CLOSE)[: -(SIZE - 2000)] if cut else GOOD
        return next(odds, GOOD)

    cuts, odds = iter([True]), iter([odd])
    server = serve(answer)
    fetch(server, tmp_path, attempts=5)
    assert (tmp_path / "a.pt").read_bytes() == CONTENT
    assert any(re.search(rb"Range: bytes=2000-", head) for head in server.heads)


def test_an_object_with_another_etag_each_time_ends_the_attempts(serve, tmp_path):
    """Each answer is cut, and what it brought is of no use to the next."""
    numbers = iter(range(1000))

    def answer(head: bytes) -> bytes:
        etag = b'ETag: "%d"\r\n' % next(numbers)
        return (OK + LENGTH + CLOSE + etag + b"\r\n" + CONTENT)[:-1000]

    server = serve(answer)
    with pytest.raises(TransferError, match=r"a\.pt: given up after 4 attempts"):
        fetch(server, tmp_path, attempts=4)
    assert len(server.heads) <= 8
    assert not (tmp_path / "a.pt").exists()


@pytest.mark.parametrize("headers", [CHUNKED, CHUNKED + LENGTH, CHUNKED + b"Content-Length: 7\r\n"])
def test_a_length_beside_chunks_is_not_believed(serve, tmp_path, headers):
    server = serve(lambda _: OK + headers + b"\r\n" + CHUNKS)
    with pytest.raises(TransferError, match=r"a\.pt: the server does not say how long it is"):
        fetch(server, tmp_path)
    assert not list(tmp_path.glob("a.pt*"))
