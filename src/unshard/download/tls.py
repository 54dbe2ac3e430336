"""TLS that is received in large blocks, and decrypted by one thread at a time."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable
from typing import Any

from urllib3.util.ssltransport import SSLTransport

RECEIVE_BYTES = 2**18
_DECRYPTING = threading.Lock()
"""The GIL is given up and taken again for each record of 16 KiB: threads that did so against each
other would spend more on that than on decrypting."""


class TlsStream(SSLTransport):
    """A client's end of TLS over a connected socket."""

    sslobj: ssl.SSLObject
    _received = memoryview(b"")
    _has_ended = False
    _failure: ssl.SSLError | None = None

    def recv_into(self, buffer: Any, nbytes: int | None = None, _flags: int = 0) -> int:
        """All that can be decrypted of what has arrived, as far as it fits; 0: the end.

        Raises:
            OSError: the connection broke, or what came is not TLS.
        """
        view = memoryview(buffer)[:nbytes]
        if self._failure:
            raise self._failure
        while not self._has_ended:
            if not (self.incoming.pending or self.sslobj.pending()):
                self._receive()
            with _DECRYPTING:
                num_bytes = self._decrypt(view)
            if self.outgoing.pending:  # an answer to a change of keys, or an alert
                with contextlib.suppress(OSError):  # what came before is good, the end comes next
                    self.socket.sendall(self.outgoing.read())
            if num_bytes is not None:
                return num_bytes
        return 0

    def _receive(self) -> None:
        if not self._received:
            self._received = memoryview(bytearray(RECEIVE_BYTES))
        if num_bytes := self.socket.recv_into(self._received):
            self.incoming.write(self._received[:num_bytes])
        else:
            self.incoming.write_eof()

    def _decrypt(self, view: memoryview) -> int | None:
        """How many bytes were put into `view`; None: more has to arrive for the first."""
        read: Callable[[int, memoryview], int] = self.sslobj.read  # type: ignore[assignment]
        num_bytes, size = 0, len(view)
        try:
            while num_bytes < size and (count := read(size - num_bytes, view[num_bytes:])):
                num_bytes += count
            self._has_ended = num_bytes < size
        except ssl.SSLWantReadError:
            return num_bytes or None
        except ssl.SSLEOFError:
            self._has_ended = True  # without a goodbye: whether that is too soon, HTTP knows
        except ssl.SSLError as error:
            if not num_bytes:
                raise
            self._failure = error
        return num_bytes
