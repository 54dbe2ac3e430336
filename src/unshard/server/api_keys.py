"""Who may call the API."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from unshard.server.failures import Failure

OPEN_PATHS = frozenset({"/health", "/ready", "/"})
OPEN_FOLDER = "/playground/"
"""The playground is files that hold no secret; what it asks for needs a key."""


class KeyGuard:
    """Answers 401 to all that comes without one of `api_keys` as a bearer token."""

    def __init__(self, app: ASGIApp, api_keys: Sequence[str]) -> None:
        self._app = app
        self._digests = [_digest(key.encode()) for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_open(scope["path"]) or self._is_known(scope):
            await self._app(scope, receive, send)
            return
        failure = Failure(
            401, "this needs a key: send the header `Authorization: Bearer KEY`", None,
            "invalid_api_key",
        )  # fmt: skip
        headers = {"www-authenticate": "Bearer"}
        await failure.response(headers)(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        given = _digest(key.strip(" \t").encode("latin-1"))
        # Digests of one length, and all of them compared: time tells nothing of the keys.
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return any(matches) and scheme.lower() == "bearer"


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
