"""The layers between a connection and the routes."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from unshard.server import failures
from unshard.server.access import AccessLog
from unshard.server.api_keys import KeyGuard
from unshard.server.generation import Generations
from unshard.server.limits import BodyLimit
from unshard.server.manners import Manners

CORS_MAX_AGE_SECONDS = 600


def install(app: FastAPI, generations: Generations, manners: Manners) -> None:
    """Put all layers around the routes of `app`; each goes around those before it."""
    app.add_middleware(BodyLimit)
    app.add_middleware(Readiness, generations=generations)
    if manners.api_keys:
        app.add_middleware(KeyGuard, api_keys=manners.api_keys)
    failures.install(app)
    if manners.cors_origins:
        # Around the keys: a browser asks whether it may ask before it sends one.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=manners.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-request-id"],
            expose_headers=["x-request-id", "retry-after"],
            max_age=CORS_MAX_AGE_SECONDS,
        )
    app.add_middleware(AccessLog, metrics=generations.metrics, manners=manners)


class Readiness:
    """Says 503 at `/ready` as soon as no more requests are wanted."""

    def __init__(self, app: ASGIApp, generations: Generations) -> None:
        self._app = app
        self._generations = generations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/ready" and self._generations.ending:
            failure = failures.Failure(503, "the server is shutting down")
            await failure.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)
