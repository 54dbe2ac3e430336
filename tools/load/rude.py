"""Clients with bad manners, each on a connection of its own.

Raises, all of them: OSError: they were cut, where they had to be answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable

from tools.load.asks import LONG

Rudeness = Callable[[int, random.Random], Awaitable[None]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
PATIENCE_S = 120
NUM_FLOODING = 60
RUBBISH = (
    b"\0" * 300,
    b"GET / HTTP/9\r\n\r\n",
    b"A" * 100_000,
    b"POST /v1/completions HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    HEAD + b"content-length: 3\r\ncontent-length: 4\r\n\r\n{}xx",
)


@contextlib.asynccontextmanager
async def _connected(port: int) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def _long(draw: random.Random) -> bytes:
    return json.dumps({"prompt": "x", "stream": draw.random() < 0.5, **LONG}).encode()


def _whole(body: bytes) -> bytes:
    return HEAD + b"content-length: %d\r\n\r\n" % len(body) + body


async def _read_to_end(reader: asyncio.StreamReader) -> bytes:
    """All of it, also where it ends in a reset."""
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(PATIENCE_S):
            while chunk := await reader.read(1 << 16):
                received += chunk
    return bytes(received)


async def half_head(port: int, draw: random.Random) -> None:
    """Waits to be cut."""
    async with _connected(port) as (reader, writer):
        writer.write(HEAD[: draw.randrange(len(HEAD))])
        await _read_to_end(reader)


async def half_body(port: int, draw: random.Random) -> None:
    """Waits to be cut, or goes."""
    async with _connected(port) as (reader, writer):
        writer.write(HEAD + b"content-length: 5000\r\n\r\n" + _long(draw))
        if draw.random() < 0.5:
            await _read_to_end(reader)
        else:
            await asyncio.sleep(draw.random())


async def reset(port: int, draw: random.Random) -> None:
    async with _connected(port) as (_, writer):
        writer.write(_whole(_long(draw)))
        await writer.drain()
        await asyncio.sleep(draw.random() * 0.3)


async def slow_reader(port: int, draw: random.Random) -> None:
    async with _connected(port) as (reader, writer):
        writer.write(_whole(_long(draw)))
        with contextlib.suppress(ConnectionResetError):
            for _ in range(30):
                if not await asyncio.wait_for(reader.read(draw.randrange(1, 60)), PATIENCE_S):
                    break
                await asyncio.sleep(0.1)


async def slow_sender(port: int, _draw: random.Random) -> None:
    """In small chunks, within the time that it has."""
    body = b'{"prompt": "x", "max_tokens": 1}'
    async with _connected(port) as (reader, writer):
        writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        for start in range(0, len(body), 8):
            chunk = body[start : start + 8]
            writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.write(b"0\r\n\r\n")
        await asyncio.wait_for(reader.read(100), PATIENCE_S)


async def pipelined(port: int, _draw: random.Random) -> None:
    """Asks 41 things at once, all of which are answered in turn."""
    async with _connected(port) as (reader, writer):
        last = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        writer.write(_whole(b"") * 40 + last)
        answers = (await _read_to_end(reader)).count(b"HTTP/1.1 ")
        if answers != 41:
            raise ConnectionError(f"of 41 requests in a row {answers} were answered")


async def rubbish(port: int, draw: random.Random) -> None:
    async with _connected(port) as (reader, writer):
        writer.write(draw.choice((*RUBBISH, draw.randbytes(500))))
        if draw.random() < 0.5:
            await _read_to_end(reader)


async def flood(port: int, draw: random.Random) -> None:
    """Many connections at once: idle, with half a head, or with a request that nobody reads."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(NUM_FLOODING):
            _, writer = await stack.enter_async_context(_connected(port))
            whole = _whole(_long(draw))
            writer.write(draw.choice((b"", HEAD, whole[: draw.randrange(len(whole))], whole)))
        await asyncio.sleep(draw.random())


RUDE: tuple[Rudeness, ...] = (
    half_head,
    half_body,
    reset,
    slow_reader,
    slow_sender,
    pipelined,
    rubbish,
)
