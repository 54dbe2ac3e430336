"""What one request may ask for at most, so that no request can hold up the others."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 8 << 20
MAX_CHOICES = 1024
"""Prompts times `n` of one call."""
MAX_SHOWN = 100
"""Characters of a client's text that an error repeats."""


class BodyLimit:
    """Refuses a request body beyond `MAX_BODY_BYTES` with 413, before it is all read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        received = 0

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                raise HTTPException(413, f"the body is longer than {MAX_BODY_BYTES} bytes")
            return message

        await self._app(scope, counted_receive, send)
