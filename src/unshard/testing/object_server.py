"""A loopback HTTP/1.1 server that transmits answers which somebody else decides."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import BinaryIO

_BLOCK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks: `target` is path and query exactly as on the wire."""

    method: str
    target: str
    range: str | None
    if_range: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What it gets: `sent_bytes` of `body`, after headers that may promise more."""

    status: int
    headers: Mapping[str, str]
    body: BinaryIO = field(default_factory=io.BytesIO)
    sent_bytes: int = 0
    stalls: bool = False
    """After the bytes, silence until `end_silence`; otherwise a cut if some are missing."""


class ObjectServer(ThreadingHTTPServer):
    """Serves on a free port of 127.0.0.1 from construction until `stop`."""

    daemon_threads = False  # so that server_close waits for them
    request_queue_size = 128

    def __init__(self, decide: Callable[[Request], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.decide = decide
        self.stopping = threading.Event()
        self.silence_ends = threading.Event()
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Cut every connection and end every thread."""
        self.stopping.set()
        self.silence_ends.set()
        self.shutdown()
        self._thread.join()
        with self._lock:
            for connection in self._connections:
                _cut(connection)
        self.server_close()

    def end_silence(self) -> None:
        """Cut the connections that stall, or are about to; later ones stall anew."""
        ends, self.silence_ends = self.silence_ends, threading.Event()
        ends.set()

    def opened(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.add(connection)
            if self.stopping.is_set():
                _cut(connection)

    def closed(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.discard(connection)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves early is no error here."""


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the client left first
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 64 * 1024  # status, headers and a small body in one packet
    server: ObjectServer

    def setup(self) -> None:
        super().setup()
        self.server.opened(self.connection)

    def finish(self) -> None:
        self.server.closed(self.connection)
        super().finish()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Whoever decides keeps a log."""

    def do_GET(self) -> None:
        self._transmit(
            self.server.decide(
                Request(
                    self.command,
                    self.path,
                    self.headers.get("Range"),
                    self.headers.get("If-Range"),
                )
            )
        )

    do_HEAD = do_GET  # noqa: N815 - the base calls it so

    def _transmit(self, answer: Answer) -> None:
        silence_ends = self.server.silence_ends
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            answer.body.close()
            return
        left_bytes = answer.sent_bytes
        with answer.body as body:
            while left_bytes and (block := body.read(min(left_bytes, _BLOCK_BYTES))):
                self.wfile.write(block)
                left_bytes -= len(block)
        if answer.sent_bytes == int(answer.headers["Content-Length"]):
            return
        self.wfile.flush()
        if answer.stalls:
            silence_ends.wait()
        self.close_connection = True
