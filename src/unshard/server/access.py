"""Every request has an id, is counted, and is told to the access log."""

from __future__ import annotations

import json
import re
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unshard.server.manners import Manners
from unshard.server.metrics import Metrics
from unshard.server.visit import CURRENT, Visit

MAX_LOGGED_BYTES = 1 << 16
"""Of one request's body."""

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def write_to_stderr(line: str) -> None:
    """One line, at once."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


class AccessLog:
    """The outermost layer: what it counts and tells is what the client met."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        manners: Manners,
        write: Callable[[str], None] = write_to_stderr,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._manners = manners
        self._write = write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = Visit(_request_id(Headers(scope=scope).get("x-request-id")))
        began, token = time.monotonic(), CURRENT.set(visit)
        self._metrics.arrived()
        try:
            await self._app(scope, self._kept(receive, visit), _marked(send, visit))
        finally:
            CURRENT.reset(token)
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.answered(method, _route(scope), visit.status)
            if self._manners.access_log:
                self._write(json.dumps(self._entry(scope, visit, time.monotonic() - began)))

    def _kept(self, receive: Receive, visit: Visit) -> Receive:
        if not (self._manners.access_log and self._manners.log_prompts):
            return receive

        async def keep() -> Message:
            message = await receive()
            room = MAX_LOGGED_BYTES - len(visit.body)
            visit.body += message.get("body", b"")[:room]
            return message

        return keep

    def _entry(self, scope: Scope, visit: Visit, seconds: float) -> dict[str, Any]:
        client = scope.get("client")
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "request_id": visit.request_id,
            "client": client[0] if client else None,
            "method": scope["method"],
            "path": scope["path"],
            "status": visit.status,
            "complete": visit.finished,
            "seconds": round(seconds, 4),
            "prompt_tokens": visit.prompt_tokens,
            "generated_tokens": visit.generated_tokens,
        }
        if self._manners.log_prompts:
            entry["body"] = visit.body.decode(errors="replace")
        return entry


def _marked(send: Send, visit: Visit) -> Send:
    async def mark(message: Message) -> None:
        if message["type"] == "http.response.start":
            visit.status = message["status"]
            message.setdefault("headers", [])
            MutableHeaders(scope=message)["x-request-id"] = visit.request_id
        await send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            visit.finished = True

    return mark


def _request_id(given: str | None) -> str:
    if given is not None and _SANE_ID.fullmatch(given):
        return given
    return f"req-{uuid.uuid4().hex}"


def _route(scope: Scope) -> str:
    # The route's own spelling: clients cannot make a new series of each path they think of.
    return str(getattr(scope.get("route"), "path", "other"))
