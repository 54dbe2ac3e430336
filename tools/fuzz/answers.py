"""What a server sends back, HTTP or not, to all that asks by a link."""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import shutil
import socket
import threading
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from tools.fuzz.refusals import refusal
from tools.fuzz.scratch import scratch

from unshard.download import PresignedTemplate, RetryPolicy, download, fetch_manifest, shares
from unshard.download import manifest as manifests
from unshard.download.pieces import Pieces
from unshard.download.sizes import file_sizes
from unshard.finished import JOURNAL_NAME
from unshard.manifest import Digest, Manifest

NAME = "a.bin"
SECRET = "Signature=5ec2e7"
NEXT, BODY = b"\n@NEXT@\n", b"@BODY@"
"""In an input: between one answer and the next; all bytes of the file."""
CONTENT = random.Random(2).randbytes(3000)
ETAG = b'"e"'
KEEPS_OPEN = 128
"""Of the first byte: the connections stay open, so that what is too short is a stall."""
HEADERS = (
    b"Content-Length: 3000", b"Content-Length: 9", b"Content-Range: bytes 0-2999/3000",
    b"Content-Range: bytes 1000-2999/3000", b"Content-Range: bytes */3000", b'ETag: "f"',
    b"Transfer-Encoding: chunked", b"Content-Encoding: gzip", b"Content-Type: text/html",
    b"Location: /w/b?x", b"Location: //[", b"Retry-After: 9", b"Connection: close",
    b"HTTP/1.1 206 Part", b"HTTP/1.1 103 Hint", b"HTTP/1.1 302 Found", b"HTTP/1.0 200 OK",
    b"HTTP/1.1 503 No", b"HTTP/1.1 403 No", b"", b"<Error><Code>ExpiredToken</Code></Error>",
)  # fmt: skip
NUMBERS = (b"0", b"-1", b"+3", b"3_0", b"9" * 30, b"9" * 5000, b"f" * 20, b"1e9", b"\xb2", b"")


def answer(data: bytes) -> None:
    """The first byte says who asks. A file that a manifest knows comes out right or is told why
    not, in one line without the link's secret; and right by the same command once the server has
    come to its senses."""
    if not data:
        return
    here = server()
    here.answers, here.keeps_open = data[1:].split(NEXT), data[0] >= KEEPS_OPEN
    READERS[data[0] % len(READERS)]()


def known_file() -> None:
    _fresh()
    told = refusal(_download, otherwise="")
    assert SECRET not in told
    assert "\n" not in told
    found = folder() / NAME
    assert told or found.exists()
    assert not found.exists() or found.read_bytes() == CONTENT
    server().answers = []
    _download(stall_timeout_s=9)
    assert found.read_bytes() == CONTENT
    assert {each.name for each in folder().iterdir()} == {NAME, JOURNAL_NAME}


def unknown_file() -> None:
    _fresh()
    told = refusal(lambda: _download(files=[NAME]), otherwise="")
    assert SECRET not in told
    assert (folder() / NAME).exists() == (not told)


def manifest() -> None:
    address = f"{server().origin}/w/{NAME}?{SECRET}&x=1"
    told = refusal(lambda: fetch_manifest(address, retry=RETRY, sleep=lambda _: None))
    assert SECRET not in told


def ranges() -> None:
    with Pieces(_link(), max_connections=1, stall_timeout_s=STALL_S, retry=RETRY) as pieces:

        def read() -> None:
            piece = pieces.read(NAME, 3, 9)
            assert len(piece.content) == min(9, piece.size_bytes - 3)

        assert SECRET not in refusal(read)
        assert SECRET not in refusal(lambda: file_sizes(pieces, [NAME, "b.bin"], workers=1))


READERS = (known_file, unknown_file, manifest, ranges)
RETRY = RetryPolicy(attempts=4, first_delay_s=0, longest_delay_s=0)
STALL_S = 0.1


def mutated_answer(data: bytes, random: random.Random) -> bytes:
    """Other headers, another order of them, another number in one, another end of an answer."""
    if random.random() < 0.05:
        return random.randbytes(1) + data[1:]
    lines = data[1:].split(b"\r\n")
    for _ in range(random.choice((1, 1, 2, 3))):
        at = random.randrange(len(lines))
        match random.randrange(6):
            case 0:
                lines[at : at + 1] = []
            case 1:
                lines.insert(at, random.choice(HEADERS))
            case 2:
                lines[at] = random.choice(HEADERS)
            case 3:
                lines[at] = re.sub(rb"\d+", lambda _: random.choice(NUMBERS), lines[at], count=1)
            case 4:
                lines[at] = lines[at][: random.randrange(len(lines[at]) + 1)]
            case _:
                other = random.randrange(len(lines))
                lines[at], lines[other] = lines[other], lines[at]
        lines = lines or [b""]
    return data[:1] + b"\r\n".join(lines)


class Server:
    """Gives `answers` in their order, and from then on those that are right."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.keeps_open = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.origin = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as stream:
            while head := b"".join(iter(partial(_line, stream.readline), b"")):
                raw = self.answers.pop(0).replace(BODY, CONTENT) if self.answers else None
                connection.sendall(raw if raw is not None else right(head))
                if raw is not None and not self.keeps_open:
                    return


def _line(read: Callable[[], bytes]) -> bytes:
    """The next one of a request's head; nothing at its end."""
    line = read()
    return b"" if line == b"\r\n" else line


def right(head: bytes) -> bytes:
    """What an honest server answers to the request that begins with `head`."""
    asked = re.search(rb"Range: bytes=(\d+)-(\d*)", head)
    if asked is None:
        return b"HTTP/1.1 200 OK\r\nETag: %s\r\nContent-Length: %d\r\n\r\n%s" % (
            ETAG, len(CONTENT), CONTENT,
        )  # fmt: skip
    start, stop = int(asked[1]), min(int(asked[2] or len(CONTENT)) + 1, len(CONTENT))
    if start >= stop:
        return b"HTTP/1.1 416 No\r\nContent-Length: 0\r\n\r\n"
    return (
        b"HTTP/1.1 206 Part\r\nETag: %s\r\nContent-Range: bytes %d-%d/%d\r\n"
        b"Content-Length: %d\r\n\r\n%s"
        % (ETAG, start, stop - 1, len(CONTENT), stop - start, CONTENT[start:stop])
    )


@cache
def server() -> Server:
    """That of the whole run."""
    shares.SMALLEST_SHARE_BYTES = 512
    manifests._STALL_TIMEOUT_S = STALL_S  # noqa: SLF001 - users have no reason to set it
    return Server()


def folder() -> Path:
    return scratch().path / "answers"


def _fresh() -> None:
    shutil.rmtree(folder(), ignore_errors=True)


def _link() -> PresignedTemplate:
    return PresignedTemplate.parse(f"{server().origin}/w/stubbed.pt?Expires=4102444800&{SECRET}")


def _download(files: list[str] | None = None, stall_timeout_s: float = STALL_S) -> None:
    known = Manifest({NAME: Digest("md5", hashlib.md5(CONTENT).hexdigest())}, "x")
    download(
        _link(),
        files or known,
        folder(),
        max_connections=2,
        retry=RETRY,
        stall_timeout_s=stall_timeout_s,
    )
