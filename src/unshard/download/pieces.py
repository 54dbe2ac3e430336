"""Single ranges of files: enough of each to know its headers before all of it is fetched."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Self

from unshard.download.content import check_headers, content_range, refusal
from unshard.download.response import InterruptedTransferError, Response
from unshard.download.retry import RetryPolicy, ask_again
from unshard.download.transport import Transport
from unshard.download.url import PresignedTemplate
from unshard.errors import TransferError


class NoRangesError(TransferError):
    """The server answers a range with the whole file, which is `size_bytes` long."""

    def __init__(self, message: str, size_bytes: int) -> None:
        super().__init__(message)
        self.size_bytes = size_bytes


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a file that is `size_bytes` long."""

    content: bytes
    size_bytes: int


class Pieces:
    """Reads ranges of the files of `template`. Safe to use from many threads.

    `num_requests` and `received_bytes` count what it has cost so far.
    """

    def __init__(
        self,
        template: PresignedTemplate,
        *,
        max_connections: int,
        stall_timeout_s: float,
        retry: RetryPolicy,
    ) -> None:
        self._template = template
        self._retry = retry
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self.num_requests = self.received_bytes = 0
        self._transport = Transport(
            max_connections=max_connections, stall_timeout_s=stall_timeout_s
        )

    def read(self, name: str, start: int, length: int) -> Piece:
        """Bytes `[start, start + length)` of `name`, or those of them that it has.

        Raises:
            NoRangesError: the server does not answer ranges.
            LinkRefusedError: HTTP 401 or 403.
            TransferError: the server does not give the file.
            CancelledError: `stop` was called.
        """
        return ask_again(
            lambda: self._ask(name, start, length),
            name,
            self._retry,
            self._sleep,
            hint="run the same command again",
        )

    def stop(self) -> None:
        """End all reads at once, from another thread."""
        self._stopped.set()
        self._transport.abort()

    def __enter__(self) -> Self:
        self._transport.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._transport.__exit__(*exception)

    def _sleep(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise CancelledError

    def _ask(self, name: str, start: int, length: int) -> Piece:
        headers = {"Range": f"bytes={start}-{start + length - 1}"}
        self._count(1, 0)
        with self._transport.get(self._template, name, headers) as response:
            if response.status == 200:
                size_bytes = check_headers(name, response)
                raise NoRangesError(f"{name}: the server does not answer ranges", size_bytes)
            if response.status != 206:
                raise refusal(name, response, self._template)
            piece = _piece(name, start, length, response)
        self._count(0, len(piece.content))
        return piece

    def _count(self, num_requests: int, num_bytes: int) -> None:
        with self._lock:
            self.num_requests += num_requests
            self.received_bytes += num_bytes


def _piece(name: str, start: int, length: int, response: Response) -> Piece:
    num_bytes, found = check_headers(name, response), content_range(response)
    if found is None or found[0] != start or num_bytes != min(length, found[2] - start):
        raise InterruptedTransferError(f"{name}: the server answered another range")
    return Piece(response.body(), found[2])
