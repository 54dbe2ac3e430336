"""Rounds of load, each with one fault, and the laws that hold after it."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

import httpx
from tools.load.asks import Ask, Words, known_asks, words
from tools.load.clients import Crowd
from tools.load.faults import FAULTS
from tools.load.server import PATIENCE_S, BrokenError, Manner, Server

NUM_WARM_ROUNDS = 4
"""Time for a server to meet most counts of rows, for each of which oneDNN compiles and keeps."""
MAX_WARM_GROWTH_BYTES = 128 << 20
"""Of a server's memory after its first round, while it is warming."""
MAX_GROWTH_BYTES = 64 << 20
"""Of a server's memory once it is warm."""
BATCHES = (3, 8, 16)
DRAINS_S = (0.5, 60)
AGAIN = 6
"""How many known answers are asked for after a round."""
PREEMPTIONS = "unshard_preemptions_total"


@dataclass
class Campaign:
    """A server lives through the rounds until one ends it."""

    log: Path
    num_clients: int
    round_s: float
    met: Counter[str] = field(default_factory=Counter)
    rounds: Counter[str] = field(default_factory=Counter)
    preemptions: float = 0
    slowest_end_s: float = 0
    growth_bytes: int = 0
    _known: dict[int, list[tuple[Ask, Words]]] = field(default_factory=dict)
    _server: Server | None = None
    _memory_mb: int = 0
    _memories: list[int] = field(default_factory=list)
    """Of the server after each of its rounds, in bytes."""
    _num_files: int | None = None
    """Open in the server after its first round."""

    def run(self, seed: int, names: list[str], sizes: list[int]) -> str:
        """One round; what there is to say of it.

        Raises:
            BrokenError: the law it broke.
        """
        draw = random.Random(seed)
        name = draw.choices(names, [FAULTS[name][1] for name in names])[0]
        manner = Manner(draw.choice(sizes), draw.choice(BATCHES), draw.choice(DRAINS_S))
        server = self._server = self._server or self._start(manner)
        known = self._known[server.manner.tp]
        crowd = Crowd(server.url, time.monotonic() + self.round_s, known)
        asyncio.run(self._load(server, crowd, name, draw))
        self.rounds[name] += 1
        self.met += crowd.met
        self.slowest_end_s = max(self.slowest_end_s, crowd.gone_s)
        if crowd.problems:
            raise BrokenError(f"{len(crowd.problems)} times: " + " | ".join(crowd.problems[:3]))
        server.check_log(is_quiet=name != "kill")
        if server.process.poll() is None:
            self._check_alive(server, draw)
        else:
            self._server = self._num_files = None
            self._memories.clear()
        return f"{name} {server.manner} {self._memory_mb} MB {dict(sorted(crowd.met.items()))}"

    def close(self) -> None:
        if self._server is not None:
            self._server.kill()

    def summary(self) -> dict[str, object]:
        return {
            "rounds": dict(self.rounds),
            "met": dict(self.met),
            "preemptions": self.preemptions,
            "slowest_end_after_kill_s": round(self.slowest_end_s, 3),
            "growth_bytes": self.growth_bytes,
        }

    def _start(self, manner: Manner) -> Server:
        server = Server(manner, self.log)
        if manner.tp not in self._known:
            with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
                asks = known_asks()
                self._known[manner.tp] = [(ask, _alone(client, ask)) for ask in asks]
        return server

    async def _load(self, server: Server, crowd: Crowd, name: str, draw: random.Random) -> None:
        clients = asyncio.create_task(crowd.run(self.num_clients, draw.randrange(10**9)))
        await asyncio.sleep(draw.uniform(0.3, 0.9) * self.round_s)
        try:
            await FAULTS[name][0](server, crowd, draw)
        finally:
            await clients

    def _check_alive(self, server: Server, draw: random.Random) -> None:
        """Nothing is left of the round in a server that goes on."""
        seen = server.settle()
        self.preemptions += seen[PREEMPTIONS] - server.num_preempted
        server.num_preempted = seen[PREEMPTIONS]
        with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
            for ask, expected in draw.sample(self._known[server.manner.tp], AGAIN):
                if (found := _alone(client, ask)) != expected:
                    raise BrokenError(f"{ask} after it: {found}, and before {expected}")
        num_files = server.settled_files(self._num_files)
        self._num_files = self._num_files or num_files
        self._check_memory(server)

    def _check_memory(self, server: Server) -> None:
        number = len(self._memories)
        is_warm, measures = number >= NUM_WARM_ROUNDS, number == NUM_WARM_ROUNDS - 1
        first = self._memories[NUM_WARM_ROUNDS - 1 if is_warm else 0] if number else inf
        most = first + (MAX_GROWTH_BYTES if is_warm else MAX_WARM_GROWTH_BYTES)
        now = server.settled_memory_bytes(0 if measures else most)
        self._memory_mb = now >> 20
        self._memories.append(now)
        if now > most:
            raise BrokenError(f"memory grew from {first} to {now} bytes")
        if is_warm:
            self.growth_bytes = max(self.growth_bytes, now - int(first))


def _alone(client: httpx.Client, ask: Ask) -> Words:
    answer = client.post(ask.path, json=ask.body)
    if answer.status_code != 200:
        raise BrokenError(f"{ask} alone: {answer.status_code} {answer.text}")
    return words(answer.json())
