"""Many clients at once, some of which leave: the others' answers, the cache and the memory.

UNSHARD_LOAD_SECONDS says how long.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DEMO_MODEL = Path(__file__).parents[2] / "src/unshard/demo_model"
SECONDS = float(os.environ.get("UNSHARD_LOAD_SECONDS", "8"))
CLIENTS = 64
SHARE_LEAVING = 0.2
MAX_GROWTH_BYTES = 64 << 20
BODIES = [
    {"prompt": prompt, "max_tokens": tokens, "temperature": 0, **fields}
    for prompt in ("ROMEO.\n", "KING HENRY.\nNow, lords,", [2, 40, 50, 60], "JULIET.\n" * 12)
    for tokens in (1, 9, 24)
    for fields in ({}, {"logprobs": 1, "echo": True}, {"stop": ["the", "\n\n"]})
]
BAD = {"prompt": "x", "max_tokens": 10**6}


@dataclass
class Load:
    """What the clients met."""

    url: str
    until: float
    alone: list[list[dict]]
    counts: Counter = field(default_factory=Counter)

    async def run_client(self, number: int) -> None:
        draw = random.Random(number)
        async with httpx.AsyncClient(base_url=self.url, timeout=120) as client:
            while time.monotonic() < self.until:
                await self.call(client, draw)

    async def call(self, client: httpx.AsyncClient, draw: random.Random) -> None:
        index, leaves = draw.randrange(len(BODIES)), draw.random() < SHARE_LEAVING
        if draw.random() < 0.05:
            answer = await client.post("/v1/completions", json=BAD)
            assert answer.status_code == 400
            self.counts["refused"] += 1
        elif leaves and draw.random() < 0.5:
            try:
                await client.post(
                    "/v1/completions",
                    json=BODIES[index] | {"max_tokens": 400, "logit_bias": {"2": -99}},
                    timeout=draw.random() * 0.2 + 0.001,
                )
            except httpx.TimeoutException:
                self.counts["left"] += 1
            else:  # on a quick machine some have their answer by then
                self.counts["stayed"] += 1
        else:
            await self.stream(client, index, events=draw.randrange(4) if leaves else None)

    async def stream(self, client: httpx.AsyncClient, index: int, events: int | None) -> None:
        """Checks a whole stream, or leaves after some events of one."""
        body = BODIES[index] | {"stream": True}
        if events is not None:
            body |= {"max_tokens": 400, "logit_bias": {"2": -99}}
        choices = []
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                if events is not None and len(choices) >= events:
                    self.counts["left"] += 1
                    return
                if line.startswith("data: {"):
                    choices += json.loads(line.removeprefix("data: "))["choices"]
        assert line == "" or line == "data: [DONE]"
        self.counts["right" if text(choices) == text(self.alone[index]) else "wrong"] += 1


def text(choices: list[dict]) -> tuple[str, str | None]:
    return "".join(choice["text"] for choice in choices), choices[-1]["finish_reason"]


def memory_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def blocks_used(client: httpx.Client) -> int:
    metrics = client.get("/metrics").text
    return int(re.search(r'^unshard_cache_blocks\{state="used"\} (\d+)$', metrics, re.MULTILINE)[1])


async def run_clients(load: Load) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(load.run_client(number))


def test_many_clients_some_of_which_leave() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "unshard", "serve", DEMO_MODEL, "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            url = server.stderr.readline().split()[3]
            with httpx.Client(base_url=url, timeout=60) as client:
                alone = [
                    client.post("/v1/completions", json=body).json()["choices"] for body in BODIES
                ]
                warm = Load(url, time.monotonic() + SECONDS / 4, alone)
                asyncio.run(run_clients(warm))
                before = memory_bytes(server.pid)
                load = Load(url, time.monotonic() + SECONDS, alone)
                asyncio.run(run_clients(load))
                growth = memory_bytes(server.pid) - before
                while blocks_used(client):  # else the test's time runs out
                    time.sleep(0.05)
            sys.stdout.write(f"{dict(load.counts)}, memory grew by {growth >> 10} KiB\n")
            assert load.counts["wrong"] == warm.counts["wrong"] == 0
            assert load.counts["right"]
            assert load.counts["left"]
            assert growth < MAX_GROWTH_BYTES
        finally:
            server.terminate()
            assert server.wait(30) == 0
        assert server.stderr.read() == ""
