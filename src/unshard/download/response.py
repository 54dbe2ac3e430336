"""What a request comes to: an answer, or a failure that another attempt may mend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from unshard.errors import TransferError


class InterruptedTransferError(TransferError):
    """The network or the server failed in a way that another attempt may mend.

    Stays inside `unshard.download`; `retry_after_s` is the wait that the server asked for.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnreachableError(TransferError):
    """Nothing ever answered at the host: no file will do better than another."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer whose body has not been read: `chunks` yields it as it arrives.

    Header names compare without case. A chunk is good until the next one is asked for. `chunks`
    raises `InterruptedTransferError` when the body ends before its Content-Length.
    """

    status: int
    headers: Mapping[str, str]
    chunks: Iterator[bytes | memoryview]

    def body(self) -> bytes:
        """All chunks in one."""
        return b"".join(map(bytes, self.chunks))

    @property
    def content_length(self) -> int | None:
        value = self.headers.get("Content-Length", "")
        return int(value) if value.isascii() and value.isdigit() else None
