"""Bodies of requests, straight into the application, over an engine that follows a script."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[2] / "tests/server"))

from scripted_engine import CHAT_TEMPLATE, ByteTokenizer, ScriptedEngine, write

from unshard.engine.request import GenerationOutput, GenerationRequest
from unshard.server.app import create_app
from unshard.server.chat_template import ChatTemplate
from unshard.server.generation import Generations
from unshard.server.served import ServedModel

PATHS = ("/v1/completions", "/v1/chat/completions", "/completions", "/tokenize", "/detokenize")
TEXT = "a\u00e9 \u65e5z\n\u2028\U0001f600" * 8


def body(data: bytes) -> None:
    """The first byte says which route; whatever the rest is, nothing but the client is wrong:
    the answer is JSON or a stream that ends well, and never 500."""
    if not data:
        return
    answer = _loop().run_until_complete(_post(PATHS[data[0] % len(PATHS)], data[1:]))
    told = answer.text
    assert answer.status_code < 500, told
    assert "Traceback" not in told
    if answer.headers["content-type"].startswith("text/event-stream"):
        lines = [line for line in told.split("\n\n") if line]
        assert lines[-1] == "data: [DONE]", told
        for line in lines[:-1]:
            assert "error" not in json.loads(line.removeprefix("data: ")), told
    else:
        assert isinstance(answer.json(), dict | list)


async def _post(path: str, content: bytes) -> httpx.Response:
    headers = {"content-type": "application/json"}
    return await _client().post(path, content=content, headers=headers)


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


@cache
def engine() -> ScriptedEngine:
    """That of the whole run."""

    def script(request: GenerationRequest) -> Iterator[GenerationOutput]:
        return write(request, ByteTokenizer().encode(TEXT))

    return ScriptedEngine(script, pause_seconds=0)


@cache
def _client() -> httpx.AsyncClient:
    logging.disable(logging.WARNING)
    template = ChatTemplate(CHAT_TEMPLATE)
    served = ServedModel("scripted", engine(), ByteTokenizer(), created=1, chat_template=template)
    app = create_app(served, Generations(engine()))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x", timeout=9)
