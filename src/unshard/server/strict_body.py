"""Request bodies as JSON that says one thing only."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from unshard.server.limits import MAX_SHOWN
from unshard.strict_json import MAX_JSON_VALUES, has_too_many_values, unrepeated


class BodyError(HTTPException):
    """400 for a body as a whole; `param` is the field that it is about, if it is about one."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(400, message)
        self.param = param


class StrictRoute(APIRoute):
    """A route whose body is refused where Python's parser would choose among two values of a
    field, or be kept long by a great many."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strictly


class _StrictRequest(Request):
    async def json(self) -> Any:
        """
        Raises:
            BodyError: see `StrictRoute`.
            JSONDecodeError: the body is not JSON.
        """
        raw = await self.body()
        if has_too_many_values(raw):
            raise BodyError(f"the body holds more than {MAX_JSON_VALUES} values")
        return json.loads(raw, object_pairs_hook=partial(unrepeated, twice=_twice))


def _twice(key: str) -> BodyError:
    return BodyError(f"{key[:MAX_SHOWN]}: is in the body twice", key[:MAX_SHOWN])
