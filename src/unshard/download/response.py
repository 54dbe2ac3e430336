"""What a request comes to: an answer, or a failure that another attempt may mend."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from unshard.errors import TransferError

_NUM_BYTES = re.compile(r"[0-9]{1,18}")


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
        """What the server tells, if that is one number of bytes. Beside chunks it is not to be
        believed (RFC 9112, 6.3): it may be of another answer than this."""
        values = {value.strip() for value in self.headers.get("Content-Length", "").split(",")}
        value = values.pop()
        is_number = _NUM_BYTES.fullmatch(value) and not values
        return int(value) if is_number and not self.headers.get("Transfer-Encoding") else None
