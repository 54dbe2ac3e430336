"""The one place where an error becomes an HTTP answer: OpenAI's error object."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unshard.errors import RequestError, UnshardError
from unshard.server.strict_body import BodyError
from unshard.server.visit import current_visit

logger = logging.getLogger(__name__)

STATUS_OF_CODE = {"model_not_found": 404}
"""Statuses of request errors that are not 400."""

_CODE_OF_RULE = {
    "extra_forbidden": "unknown_parameter",
    "missing": "missing_required_parameter",
    "not_supported": "unsupported_parameter",
}
_PROBLEM_OF_RULE = {
    "extra_forbidden": "is not a field of this request",
    "missing": "is required",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed request: a status and the members of OpenAI's error object."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None

    def body(self) -> dict[str, Any]:
        return {
            "error": {
                "message": self.message,
                "type": "invalid_request_error" if self.status < 500 else "server_error",
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self, headers: Mapping[str, str] | None = None) -> Response:
        """The answer that tells it; a field's name may hold half a surrogate pair, which goes back
        as JSON spelt it."""
        text = json.dumps(self.body(), ensure_ascii=False, separators=(",", ":"))
        content = text.encode("utf-8", "backslashreplace")
        return Response(content, self.status, headers, "application/json")


def failure_of(error: Exception) -> Failure:
    """What the client is told of `error`. An error that is not the client's is told to the log:
    its message may name paths."""
    match error:
        case RequestValidationError():
            return _broken_rule(error.errors()[0])
        case RequestError():
            message = f"{error.message}; {error.hint}" if error.hint else error.message
            return Failure(
                STATUS_OF_CODE.get(error.code or "", 400), message, error.param, error.code
            )
        case BodyError():
            return Failure(error.status_code, error.detail, error.param)
        case HTTPException():
            return Failure(error.status_code, error.detail)
        case UnshardError():
            logger.error("request %s failed: %s", current_visit().request_id, error.message)
    return Failure(
        500, f"the server failed on this request; its log says more: {current_visit().request_id}"
    )


def install(app: FastAPI) -> None:
    """Make every failure of `app` answer with OpenAI's error object."""

    async def answer(request: Request, error: Exception) -> Response:
        failure = failure_of(error)
        headers: Mapping[str, str] | None = None
        if isinstance(error, HTTPException):
            headers = error.headers
            if error.status_code in {404, 405}:
                failure = Failure(
                    error.status_code, f"no route {request.method} {request.url.path}"
                )
        return failure.response(headers)

    for kind in (RequestValidationError, UnshardError, HTTPException):
        app.add_exception_handler(kind, answer)
    app.add_middleware(BugGuard)


class BugGuard:
    """Answers 500 for an error that nobody foresaw, whose traceback goes to the log.

    The framework's own guard answers and raises again, and the server then drops a connection
    that the client may already be using for its next request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except Exception as error:  # the outermost guard: whatever it is, it is one request's
            if started or scope["type"] != "http":
                raise
            logger.error("a bug ended request %s", current_visit().request_id, exc_info=error)
            await failure_of(error).response()(scope, receive, send)


def _broken_rule(rule: Mapping[str, Any]) -> Failure:
    """The failure for one error of pydantic's; `loc` is ("body", field, …)."""
    if rule["type"] == "json_invalid":
        return Failure(400, f"the body is not JSON: {rule['ctx']['error']} at {rule['loc'][-1]}")
    param = ".".join(str(step) for step in rule["loc"][1:])
    if not param:
        return Failure(
            400, "the body must be a JSON object, sent with content-type application/json"
        )
    problem = _PROBLEM_OF_RULE.get(rule["type"], rule["msg"])
    return Failure(400, f"{param}: {problem}", param, _CODE_OF_RULE.get(rule["type"]))
