"""The clients: most of them read their answers, a fifth leaves, some are rude."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx
from tools.load.asks import COMPLETIONS, LONG, ODD, REFUSED, Ask, Json, Words, joined, words
from tools.load.rude import RUDE, Rudeness

SHARE_LEAVING = 0.2
SHARE_RUDE = 0.06
SHARE_ODD = 0.1
ACCEPTED_S = 1.0
"""A request sent so long before the signal to end had arrived then."""


@dataclass
class Crowd:
    """What the clients of one round met."""

    url: str
    until: float
    known: list[tuple[Ask, Words]]
    manners: tuple[Rudeness, ...] = RUDE
    met: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    ended_at: float = float("inf")
    """When it was told to end, or killed: whoever came later may be refused or cut."""
    may_cut: bool = False
    """Whether answers that have begun may be cut then, too."""
    gone_s: float = 0
    """How long something of it was left after a process of it was killed."""

    async def run(self, num_clients: int, seed: int) -> None:
        # One for all: each would read the system's certificates anew.
        client = httpx.AsyncClient(base_url=self.url, timeout=120, limits=httpx.Limits())
        async with client, asyncio.TaskGroup() as group:
            for number in range(num_clients):
                group.create_task(self._client(client, random.Random(f"{seed} {number}")))

    async def _client(self, client: httpx.AsyncClient, draw: random.Random) -> None:
        while time.monotonic() < self.until:
            began = time.monotonic()
            try:
                await self._call(client, draw)
            except (httpx.TransportError, OSError) as error:
                self._cut(repr(error), began)
                if time.monotonic() > self.ended_at:
                    return

    async def _call(self, client: httpx.AsyncClient, draw: random.Random) -> None:
        kind = draw.random()
        if kind < SHARE_RUDE:
            rudeness = draw.choice(self.manners)
            await rudeness(httpx.URL(self.url).port or 0, draw)
            self.met[rudeness.__name__] += 1
        elif kind < SHARE_RUDE + SHARE_LEAVING:
            await self._leave(client, draw)
        elif kind < SHARE_RUDE + SHARE_LEAVING + SHARE_ODD:
            await self._odd(client, draw)
        else:
            ask, expected = draw.choice(self.known)
            if ask.may_stream and draw.random() < 0.5:
                await self._stream(client, ask, expected)
            else:
                await self._whole(client, ask, expected)

    async def _leave(self, client: httpx.AsyncClient, draw: random.Random) -> None:
        """Goes after a while, or after some events of a stream."""
        body = draw.choice(self.known)[0].body
        body = {"prompt": "x"} | body | LONG | {"stream": True}
        body.pop("tokens", None)
        body.pop("best_of", None)
        patience_s, events = draw.random() * 0.3 + 0.001, draw.randrange(4)
        with_stream = draw.random() < 0.5
        try:
            async with (
                asyncio.timeout(None if with_stream else patience_s),
                client.stream("POST", COMPLETIONS, json=body) as answer,
            ):
                if self._is_refused(answer):
                    await answer.aread()
                    return
                async for line in answer.aiter_lines():
                    events -= line.startswith("data: ")
                    if with_stream and events < 0:
                        break
        except TimeoutError:
            pass
        self.met["left"] += 1

    async def _odd(self, client: httpx.AsyncClient, draw: random.Random) -> None:
        is_fine = draw.random() < 0.5
        body = draw.choice(ODD if is_fine else REFUSED)
        began = time.monotonic()
        answer = await client.post(
            COMPLETIONS, content=body, headers={"content-type": "application/json"}
        )
        if self._is_refused(answer):
            return
        if answer.status_code == 500 and is_fine:
            self._cut(answer.text, began)
        elif answer.status_code != (200 if is_fine else 400):
            self.problems.append(f"{body[:80]!r} got {answer.status_code} {answer.text[:300]}")
        elif not is_fine and "error" not in answer.json():
            self.problems.append(f"{body[:80]!r} got {answer.text[:300]}")
        self.met["odd" if is_fine else "bad"] += 1

    async def _whole(self, client: httpx.AsyncClient, ask: Ask, expected: Words) -> None:
        began = time.monotonic()
        answer = await client.post(ask.path, json=ask.body)
        if answer.status_code == 500 and "error" in answer.json():
            self._cut(answer.text, began)
        elif not self._is_refused(answer):
            self._compare(ask, answer.status_code, answer.json(), expected)
        elif answer.status_code == 429:
            await asyncio.sleep(float(answer.headers.get("retry-after", 1)))

    async def _stream(self, client: httpx.AsyncClient, ask: Ask, expected: Words) -> None:
        events: list[Json] = []
        began, last = time.monotonic(), ""
        body = ask.body | {"stream": True}
        async with client.stream("POST", ask.path, json=body) as answer:
            if self._is_refused(answer) or answer.status_code != 200:
                text = (await answer.aread()).decode()
                if not self._is_refused(answer, is_counted=False):
                    self._cut(text, began)
                return
            async for line in answer.aiter_lines():
                last = line or last
                if line.startswith("data: {"):
                    events.append(json.loads(line.removeprefix("data: ")))
        if (error := next((event for event in events if "error" in event), None)) or (
            last != "data: [DONE]"
        ):
            self._cut(f"a stream ends with {error or last}", began)
        else:
            self._compare(ask, 200, joined(events), expected)

    def _compare(self, ask: Ask, status: int, answer: Json, expected: Words) -> None:
        if status == 200 and words(answer) == expected:
            self.met["right"] += 1
        else:
            self.met["wrong"] += 1
            found = words(answer) if status == 200 else answer
            self.problems.append(f"{ask}: {status} {found}, and alone {expected}")

    def _is_refused(self, answer: httpx.Response, *, is_counted: bool = True) -> bool:
        """Whether it was turned away, which has its manners, too."""
        status = answer.status_code
        if status == 503 and time.monotonic() > self.ended_at:
            self.met["503"] += is_counted
            return True
        if status != 429:
            return False
        if not answer.headers.get("retry-after", "").isdigit():
            self.problems.append("429 without Retry-After")
        self.met["429"] += is_counted
        return True

    def _cut(self, told: str, began: float) -> None:
        """A request that `began` then has no whole answer, but `told`."""
        self.met["cut"] += 1
        is_late = time.monotonic() > self.ended_at
        if not (is_late and (self.may_cut or began > self.ended_at - ACCEPTED_S)):
            self.problems.append(f"cut after {time.monotonic() - began:.1f} s: {told[:500]}")
