"""The routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import JSONResponse, Response

from unshard import __version__
from unshard.server import layers, openapi
from unshard.server.completions import CompletionCall, no_such_model
from unshard.server.generation import Generations, until_disconnect
from unshard.server.manners import Manners
from unshard.server.metrics import metrics_router
from unshard.server.protocol import Completion, CompletionRequest, Model, ModelList
from unshard.server.served import ServedModel
from unshard.server.stream import CompletionStream
from unshard.server.visit import CLIENT_CLOSED_REQUEST


def create_app(
    served: ServedModel, generations: Generations, manners: Manners | None = None
) -> FastAPI:
    """The API over `served`, whose engine it closes at its end."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(served.engine.close)

    # No pages that describe the API: those of the framework load scripts from elsewhere.
    app = FastAPI(
        title="unshard", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    layers.install(app, generations, manners or Manners())
    openapi.install(app)
    app.include_router(_completions(served, generations))
    app.include_router(_models(served))
    app.include_router(metrics_router(generations.metrics, served.engine.statistics))
    return app


def _completions(served: ServedModel, generations: Generations) -> APIRouter:
    router = APIRouter()

    streamed = {"content": {"text/event-stream": {}}, "description": "The answer, or its events"}

    @router.post("/v1/completions", response_model=Completion, responses={200: streamed})
    async def completions(body: CompletionRequest, request: Request) -> Response:
        # In a thread, because encoding a long prompt would hold up every other stream.
        call = await asyncio.to_thread(CompletionCall, body, served)
        if body.stream:
            options = body.stream_options
            include_usage = bool(options and options.include_usage)
            return CompletionStream(call, generations, include_usage=include_usage)
        completion = await until_disconnect(request.receive, call.complete(generations))
        if completion is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return JSONResponse(completion.model_dump())

    return router


def _models(served: ServedModel) -> APIRouter:
    router = APIRouter()
    model = Model(id=served.name, created=served.created)

    @router.get("/v1/models")
    async def models() -> ModelList:
        return ModelList(data=[model])

    # A path, because names such as facebook/opt-125m hold a slash.
    @router.get("/v1/models/{name:path}")
    async def model_of(name: str) -> Model:
        if name != served.name:
            raise no_such_model(name, served)
        return model

    @router.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/ready")
    async def ready() -> dict[str, str]:
        return {"status": "ok"}

    return router
