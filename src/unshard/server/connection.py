"""One connection, which a client cannot hold for ever by doing nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from unshard.server.failures import Failure

MAX_BYTES_AHEAD = 1 << 16
"""Of its next requests, which a client may send before it has the answer to this one."""


class Connection(H11Protocol):
    """Cut when its client takes longer than `client_seconds` to send one request whole, head and
    body, or to take in what waits to be sent to it."""

    client_seconds: ClassVar[float]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Not closed, which would wait until the client has taken what is left.
        self._arrival = _Timer(self.loop, self.client_seconds, transport.abort)
        self._departure = _Timer(self.loop, self.client_seconds, transport.abort)
        self._arrival.start()

    def handle_events(self) -> None:
        super().handle_events()
        state, (ahead, _) = self.conn.their_state, self.conn.trailing_data
        if state is h11.SEND_BODY or (state is h11.IDLE and ahead):
            self._arrival.start()
        else:
            self._arrival.stop()
        if state is h11.DONE and len(ahead) < MAX_BYTES_AHEAD:
            # Who does not read does not see the client go.
            self.flow.resume_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._departure.start()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._departure.stop()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._arrival.stop()
        self._departure.stop()

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP in the words of the API."""
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self.transport.abort()  # in the middle of an answer there is no place for another
            return
        body = json.dumps(Failure(400, msg).body()).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        events = (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        )
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class _Timer:
    """Calls `call` `seconds` after the first start since it was stopped."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, call: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._call = call
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        if self._handle is None:
            self._handle = self._loop.call_later(self._seconds, self._call)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


def connection_class(seconds: float) -> type[Connection]:
    """The class of connections whose clients get `seconds`."""

    class Timed(Connection):
        client_seconds = seconds

    return Timed
