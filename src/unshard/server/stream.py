"""A completion as server-sent events."""

from __future__ import annotations

import contextlib
import json

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from unshard.errors import UnshardError
from unshard.server.completions import CompletionCall
from unshard.server.failures import failure_of
from unshard.server.generation import Generations, until_disconnect
from unshard.server.protocol import Completion

DONE = b"data: [DONE]\n\n"


class CompletionStream(Response):
    """Answers a call with one event per advance of a choice, then `data: [DONE]`.

    The status is sent with the first event, so a call that fails before it gets the status of
    its failure; one that fails later gets an event with the error object, and no `[DONE]`.
    A client that goes away cancels the call.
    """

    media_type = "text/event-stream"

    def __init__(
        self, call: CompletionCall, generations: Generations, *, include_usage: bool
    ) -> None:
        # Buffering proxies would turn a stream into one late answer.
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._call = call
        self._generations = generations
        self._include_usage = include_usage

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        await until_disconnect(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        async with contextlib.aclosing(self._call.deltas(self._generations)) as deltas:
            first = await anext(deltas)
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            await _send_event(send, self._json(self._call.completion([first])))
            try:
                async for delta in deltas:
                    await _send_event(send, self._json(self._call.completion([delta])))
            except (UnshardError, HTTPException) as error:
                await _send_event(send, json.dumps(failure_of(error).body()))
            else:
                await self._send_end(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_end(self, send: Send) -> None:
        if self._include_usage:
            await _send_event(send, self._json(self._call.completion([], self._call.usage())))
        await send({"type": "http.response.body", "body": DONE, "more_body": True})

    def _json(self, completion: Completion) -> str:
        event = completion.model_dump(exclude=None if self._include_usage else {"usage"})
        # ASCII only: readers that split lines as Unicode does would break at a raw U+2028.
        return json.dumps(event, separators=(",", ":"), allow_nan=False)


async def _send_event(send: Send, data: str) -> None:
    body = f"data: {data}\n\n".encode("ascii")
    await send({"type": "http.response.body", "body": body, "more_body": True})
