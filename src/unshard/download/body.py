"""How the body of an answer is read: into one buffer, with as few layers around as can be."""

from __future__ import annotations

import io
import time

from unshard.download.patience import PatientResponse

BUFFER_BYTES = 2**19
GATHER_BYTES = 2**18
GATHER_S = 0.5


class BufferedResponse(PatientResponse):
    """An answer whose `read1` returns what has arrived, in a buffer that the next call fills
    again: fresh memory for each read costs as much as the read does."""

    buffer_bytes = BUFFER_BYTES
    _buffer = memoryview(b"")
    _read_ahead = io.DEFAULT_BUFFER_SIZE
    """At most so many bytes came with the headers."""

    def read1(self, n: int = -1, /) -> bytes:
        """
        Raises:
            OSError: what the connection raised.
        """
        if not self.length or self.isclosed():
            return super().read1(n)  # an end that is not known beforehand
        if not self._buffer:
            self._buffer = memoryview(bytearray(min(self.buffer_bytes, self.length)))
        view = self._buffer[: min(n, self.length) if n >= 0 else self.length]
        num_bytes = self._fill(view)
        self.length -= num_bytes
        return view[:num_bytes]  # type: ignore[return-value]  # as good as bytes, and no copy

    def _fill(self, view: memoryview) -> int:
        """Read into `view`; how many bytes. 0: the end, sooner than it was told."""
        wanted = min(self._read_ahead or io.DEFAULT_BUFFER_SIZE, len(view))
        if not self._read_ahead and wanted < len(view):
            return self.fp.readinto1(view)
        # `readinto1` reads on after what is buffered, which it loses at an error: that is what came
        # with the headers, and what it reads ahead itself into a view no larger than its buffer.
        block = self.fp.read1(wanted)
        view[: len(block)] = block
        is_more = self._read_ahead and len(block) == wanted
        self._read_ahead = self._read_ahead - wanted if is_more else 0
        return len(block)


class GatheredResponse(BufferedResponse):
    """The same over TLS, which hands over its records of 16 KiB one by one: `read1` waits for
    all that it may return, or for `GATHER_S` seconds.

    The layers above it cost more than to decrypt a record does. What had come when the
    connection breaks is returned before the error is raised.
    """

    buffer_bytes = GATHER_BYTES
    _failure: OSError | None = None

    def _fill(self, view: memoryview) -> int:
        if self._failure:
            raise self._failure
        num_bytes, until = 0, time.monotonic() + GATHER_S
        try:
            while num_bytes < len(view) and (count := super()._fill(view[num_bytes:])):
                num_bytes += count
                if time.monotonic() >= until:
                    break
        except OSError as error:
            if not num_bytes:
                raise
            self._failure = error
        return num_bytes
