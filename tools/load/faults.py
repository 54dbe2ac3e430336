"""What is done to a server in the middle of its load."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable

from tools.load.clients import Crowd
from tools.load.rude import flood as flood_once
from tools.load.server import BrokenError, Server

Fault = Callable[[Server, Crowd, random.Random], Awaitable[None]]
FLOODS = 4
SHORT_S = 10
"""A drain that is shorter may end before the answers do."""


async def calm(_server: Server, _crowd: Crowd, _draw: random.Random) -> None:
    pass


async def flood(server: Server, _crowd: Crowd, draw: random.Random) -> None:
    await asyncio.gather(*(flood_once(server.port, draw) for _ in range(FLOODS)))


async def pause(server: Server, _crowd: Crowd, draw: random.Random) -> None:
    """A rank stands still for a second."""
    pid = draw.choice(server.pids)
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(1)
    os.kill(pid, signal.SIGCONT)


async def terminate(server: Server, crowd: Crowd, _draw: random.Random) -> None:
    await _end(server, crowd, signal.SIGTERM)


async def interrupt(server: Server, crowd: Crowd, _draw: random.Random) -> None:
    await _end(server, crowd, signal.SIGINT)


async def insist(server: Server, crowd: Crowd, draw: random.Random) -> None:
    """Two signals, the second of which cuts the grace short."""
    first, second = draw.choices((signal.SIGTERM, signal.SIGINT), k=2)
    _expect_end(crowd, may_cut=True)
    server.process.send_signal(first)
    await asyncio.sleep(draw.random() / 2)
    await _end(server, crowd, second)


async def kill(server: Server, crowd: Crowd, draw: random.Random) -> None:
    """One process of it, by SIGKILL."""
    rank = draw.randrange(len(server.pids))
    _expect_end(crowd, may_cut=True)
    os.kill(server.pids[rank], signal.SIGKILL)
    crowd.gone_s = await asyncio.to_thread(server.gone)
    code = server.process.wait()
    if code != (5 if rank else -9):
        raise BrokenError(f"rank {rank} was killed, and it exits with {code}: {server.log()}")
    words = f"error: rank {rank} of {len(server.pids)} was ended by SIGKILL\n"
    if rank and not server.log().endswith(words):
        raise BrokenError(f"rank {rank} was killed, and its log says {server.log()}")


FAULTS: dict[str, tuple[Fault, int]] = {
    "calm": (calm, 1),
    "flood": (flood, 2),
    "pause": (pause, 3),
    "terminate": (terminate, 2),
    "interrupt": (interrupt, 1),
    "insist": (insist, 1),
    "kill": (kill, 2),
}
"""With how often each comes, in relation to the others."""


def _expect_end(crowd: Crowd, *, may_cut: bool) -> None:
    crowd.ended_at = min(crowd.ended_at, time.monotonic())
    crowd.may_cut |= may_cut


async def _end(server: Server, crowd: Crowd, number: int) -> None:
    _expect_end(crowd, may_cut=server.manner.drain_s < SHORT_S)
    server.process.send_signal(number)
    code = await asyncio.to_thread(server.ended)
    if code != 0:
        raise BrokenError(f"after signal {number} it exits with {code}: {server.log()}")
