"""Small reads joined into larger ones: TLS hands over its records of 16 KiB one by one."""

from __future__ import annotations

import time
from http.client import HTTPResponse

GATHER_BYTES = 2**18
"""Fits a core's cache beside what TLS needs."""
GATHER_S = 0.5


class GatheredResponse(HTTPResponse):
    """An answer whose `read1` waits for more than what has arrived: for all that it may return, or
    for `GATHER_S` seconds.

    What it returns lies in a buffer that the next call fills again. What had come when the
    connection breaks is returned before the error is raised. This is a loop around as little as
    can be: the layers above `read1` cost more than to decrypt a record does.
    """

    _buffer = memoryview(b"")
    _failure: OSError | None = None

    def read1(self, n: int = -1, /) -> bytes:
        """
        Raises:
            OSError: what the connection raised.
        """
        if not self.length or self.isclosed():
            return super().read1(n)  # an end that is not known beforehand
        if self._failure:
            raise self._failure
        if not self._buffer:
            self._buffer = memoryview(bytearray(min(GATHER_BYTES, self.length)))
        view = self._buffer[: min(n, self.length) if n >= 0 else self.length]
        num_bytes = self._fill(view)
        self.length -= num_bytes
        return view[:num_bytes]  # type: ignore[return-value]  # as good as bytes, and no copy

    def _fill(self, view: memoryview) -> int:
        """Read into `view` what comes; how many bytes. 0: the end, sooner than it was told."""
        num_bytes, until = 0, time.monotonic() + GATHER_S
        try:
            while num_bytes < len(view) and (count := self.fp.readinto1(view[num_bytes:])):
                num_bytes += count
                if time.monotonic() >= until:
                    break
        except OSError as error:
            if not num_bytes:
                raise
            self._failure = error
        return num_bytes
