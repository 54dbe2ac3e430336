"""The routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from unshard import __version__
from unshard.server import layers, openapi
from unshard.server.chat import chat_router
from unshard.server.completions import completions_router
from unshard.server.freed_memory import freed_memory_given_back
from unshard.server.generation import Generations
from unshard.server.manners import Manners
from unshard.server.metaseq import metaseq_router
from unshard.server.metrics import metrics_router
from unshard.server.models import models_router
from unshard.server.playground import playground
from unshard.server.served import ServedModel
from unshard.server.tokenization import tokenization_router


def create_app(
    served: ServedModel, generations: Generations, manners: Manners | None = None
) -> FastAPI:
    """The API over `served`, whose engine it closes at its end."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with freed_memory_given_back():
            yield
        await asyncio.to_thread(served.engine.close)

    # No pages that describe the API: those of the framework load scripts from elsewhere.
    app = FastAPI(
        title="unshard",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # It would send clients that add a slash to whatever host they name themselves.
        redirect_slashes=False,
    )
    layers.install(app, generations, manners or Manners())
    openapi.install(app)
    app.include_router(completions_router(served, generations))
    app.include_router(chat_router(served, generations))
    app.include_router(metaseq_router(served, generations))
    app.include_router(tokenization_router(served))
    app.include_router(models_router(served))
    app.include_router(metrics_router(generations.metrics, served.engine.statistics))
    app.include_router(playground())
    return app
