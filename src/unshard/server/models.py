"""What is served here, and whether it is."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from starlette.exceptions import HTTPException

from unshard.server.call import no_such_model
from unshard.server.fields import Outgoing
from unshard.server.protocol import Model, ModelList
from unshard.server.served import ServedModel


class Status(Outgoing):
    status: Literal["ok"] = "ok"


def models_router(served: ServedModel) -> APIRouter:
    """`GET /v1/models`, `/health` and `/ready`."""
    router = APIRouter()
    length = served.engine.max_positions
    model = Model(id=served.name, created=served.created, max_model_len=length)

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
    async def health() -> Status:
        """The process answers."""
        return Status()

    @router.get("/ready")
    async def ready() -> Status:
        """The model is loaded and its engine takes requests."""
        if not served.engine.is_alive:
            raise HTTPException(503, "the engine has ended")
        return Status()

    return router
