"""A server of one test's own, with manners of its choice."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import uvicorn
from scripted_engine import ByteTokenizer, ScriptedEngine

from unshard.server.app import create_app
from unshard.server.connection import connection_class
from unshard.server.generation import Generations
from unshard.server.manners import Manners
from unshard.server.run import bind, url_of
from unshard.server.served import ServedModel


@dataclass
class OwnServer:
    engine: ScriptedEngine
    generations: Generations
    url: str
    client: httpx.Client


@contextlib.contextmanager
def own_server(manners: Manners) -> Iterator[OwnServer]:
    engine = ScriptedEngine(pause_seconds=0.0002)
    served = ServedModel("scripted", engine, ByteTokenizer(), created=12)
    generations = Generations(engine, manners)
    config = uvicorn.Config(
        create_app(served, generations, manners),
        http=connection_class(manners.client_seconds),
        ws="none",
        log_config=None,
    )
    server = uvicorn.Server(config)
    bound = bind("127.0.0.1", 0)
    url = url_of(bound)
    bound.listen()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([bound])))
    thread.start()
    try:
        with httpx.Client(base_url=url, timeout=10) as client:
            yield OwnServer(engine, generations, url, client)
    finally:
        server.should_exit = True
        thread.join()
    assert not engine.active
