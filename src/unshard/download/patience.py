"""How long an answer may take around its body: a server that sends a byte now and then is no
better than a silent one, though no single wait is long."""

from __future__ import annotations

import io
import socket
import time
from http.client import OK, PROCESSING, HTTPException, HTTPResponse
from typing import Any

MOST_INTERIM_ANSWERS = 100
"""Before one answer; servers send one or two."""
_LONGEST_LINE = 2**16


class PatientReader(io.BufferedReader):
    """Reads what comes over a socket. Lines that follow each other, such as all headers, must
    come within `seconds`, and so must all that one `read` wants; `None` is for ever.

    Raises:
        TimeoutError: they did not.
    """

    def __init__(self, raw: io.RawIOBase, seconds: float | None) -> None:
        super().__init__(raw)
        self._seconds = seconds
        self._until = 0.0
        self._wait_anew()

    def readline(self, size: int | None = -1, /) -> bytes:
        line, limit = b"", -1 if size is None else size
        while len(line) != limit and not line.endswith(b"\n"):
            ahead = self._ahead()
            stop = ahead.find(b"\n") + 1 or len(ahead)
            line += super().read1(stop if limit < 0 else min(stop, limit - len(line)))
            if not ahead:
                break
        return line

    def read1(self, size: int = -1, /) -> bytes:
        self._wait_anew()
        return super().read1(size)

    def read(self, size: int | None = -1, /) -> bytes:
        self._wait_anew()
        if size is None or size < 0:
            return super().read(size)
        blocks, missing = [], size
        while missing and self._ahead():
            blocks.append(super().read1(missing))
            missing -= len(blocks[-1])
        self._wait_anew()
        return b"".join(blocks)

    def _ahead(self) -> bytes:
        """What is there to be read, after one read of the socket at most; nothing at the end."""
        if self._seconds is not None and time.monotonic() > self._until:
            raise TimeoutError
        return self.peek(1)

    def _wait_anew(self) -> None:
        self._until = time.monotonic() + (self._seconds or 0)


class PatientResponse(HTTPResponse):
    """An answer that is given up where its headers, or what is around its body, take longer than
    its socket may be silent."""

    def __init__(self, sock: socket.socket, *settings: Any, **named: Any) -> None:
        super().__init__(sock, *settings, **named)
        self.fp = PatientReader(self.fp.detach(), sock.gettimeout())

    def _read_status(self) -> tuple[str, int, str]:
        """That of the answer itself, behind interim ones (RFC 9110, 15.2): http.client knows none
        but 100, and would take the answer for that of the next request.

        Raises:
            HTTPException: it is no answer, or one that never comes.
        """
        for _ in range(MOST_INTERIM_ANSWERS):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not PROCESSING <= status < OK:
                return version, status, reason
            while self.fp.readline(_LONGEST_LINE).strip():
                pass
        raise HTTPException
