"""A real server over a scripted engine, shared by the tests of this folder."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

# The import mode of the suite leaves test folders off the path.
sys.path.insert(0, str(Path(__file__).parent))

import scripted_engine
import uvicorn

from unshard.server.app import create_app
from unshard.server.chat_template import ChatTemplate
from unshard.server.generation import Generations
from unshard.server.run import bind, url_of
from unshard.server.served import ServedModel


@pytest.fixture(scope="session")
def running_server() -> Iterator[SimpleNamespace]:
    engine = scripted_engine.ScriptedEngine(pause_seconds=0.0002)
    served = ServedModel(
        "scripted",
        engine,
        scripted_engine.ByteTokenizer(),
        created=12,
        chat_template=ChatTemplate(scripted_engine.CHAT_TEMPLATE),
    )
    bound = bind("127.0.0.1", 0)
    url = url_of(bound)
    config = uvicorn.Config(
        create_app(served, Generations(engine)), http="h11", ws="none", log_config=None
    )
    server = uvicorn.Server(config)
    bound.listen()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([bound])))
    thread.start()
    yield SimpleNamespace(engine=engine, url=url, server=server)
    server.should_exit = True
    thread.join()
    assert engine.closed
    assert not engine.active


@pytest.fixture
def engine(running_server: SimpleNamespace) -> Iterator[scripted_engine.ScriptedEngine]:
    """The engine behind `client`; its script may be replaced for one test."""
    engine = running_server.engine
    script = engine.script
    engine.cancelled.clear()
    engine.submitted.clear()
    yield engine
    engine.script = script


@pytest.fixture(scope="session")
def session_client(running_server: SimpleNamespace) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running_server.url, timeout=60) as client:
        yield client


@pytest.fixture
def client(session_client: httpx.Client, engine: scripted_engine.ScriptedEngine) -> httpx.Client:
    return session_client
