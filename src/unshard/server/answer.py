"""A call's answer over HTTP: whole, or as server-sent events."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from unshard.errors import UnshardError
from unshard.server.choice import Piece
from unshard.server.failures import failure_of
from unshard.server.generation import Generations, until_disconnect
from unshard.server.visit import CLIENT_CLOSED_REQUEST

DONE = b"data: [DONE]\n\n"


class WholeCall(Protocol):
    """A call in a dialect."""

    async def complete(self, generations: Generations) -> BaseModel:
        """The whole answer."""


class StreamedCall(WholeCall, Protocol):
    """A call in a dialect that knows streams."""

    streams: bool
    include_usage: bool

    def pieces(self, generations: Generations) -> AsyncGenerator[Piece, None]:
        """What is new, as it comes."""

    def events(self, piece: Piece) -> Sequence[BaseModel]:
        """What a stream says of `piece`."""

    def usage_event(self) -> BaseModel:
        """What a stream says at its end, when `include_usage`; all events have a `usage`."""


async def answer(call: StreamedCall, generations: Generations, request: Request) -> Response:
    """The answer to `call` as it asks for it. Raises: as `answer_whole`."""
    if call.streams:
        return EventStream(call, generations)
    return await answer_whole(call, generations, request)


async def answer_whole(call: WholeCall, generations: Generations, request: Request) -> Response:
    """The answer to `call`, which a client that goes away cancels.

    Raises: as `Generations.run`.
    """
    whole = await until_disconnect(request.receive, call.complete(generations))
    if whole is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return JSONResponse(whole.model_dump())


class EventStream(Response):
    """Answers a call with one event or more per advance of a choice, then `data: [DONE]`.

    The status is sent with the first event, so a call that fails before it gets the status of
    its failure; one that fails later gets an event with the error object, and no `[DONE]`.
    A client that goes away cancels the call.
    """

    media_type = "text/event-stream"

    def __init__(self, call: StreamedCall, generations: Generations) -> None:
        # Buffering proxies would turn a stream into one late answer.
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._call = call
        self._generations = generations

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        await until_disconnect(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        async with contextlib.aclosing(self._call.pieces(self._generations)) as pieces:
            first = await anext(pieces)
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            await self._send(send, self._call.events(first))
            try:
                async for piece in pieces:
                    await self._send(send, self._call.events(piece))
            except (UnshardError, HTTPException) as error:
                await _send_event(send, json.dumps(failure_of(error).body()))
            else:
                await self._send_end(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_end(self, send: Send) -> None:
        if self._call.include_usage:
            await self._send(send, [self._call.usage_event()])
        await send({"type": "http.response.body", "body": DONE, "more_body": True})

    async def _send(self, send: Send, events: Sequence[BaseModel]) -> None:
        for event in events:
            said = event.model_dump(exclude=None if self._call.include_usage else {"usage"})
            # ASCII only: readers that split lines as Unicode does would break at a raw U+2028.
            await _send_event(send, json.dumps(said, separators=(",", ":"), allow_nan=False))


async def _send_event(send: Send, data: str) -> None:
    body = f"data: {data}\n\n".encode("ascii")
    await send({"type": "http.response.body", "body": body, "more_body": True})
