"""From the event loop into the engine's thread and back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.types import Receive

from unshard.engine.request import GenerationOutput, GenerationRequest
from unshard.server.manners import Manners
from unshard.server.metrics import GenerationMeter, Metrics
from unshard.server.served import Engine

RETRY_SECONDS = 1
"""When a client that found the queue full may come again."""

T = TypeVar("T")
_Inbox = asyncio.Queue[GenerationOutput | HTTPException]


class Generations:
    """The calls that the engine is working on. Belongs to one event loop."""

    def __init__(self, engine: Engine, manners: Manners | None = None) -> None:
        self.metrics = Metrics()
        self.ending = False
        """Whether new calls are unwanted, though still answered."""
        self._engine = engine
        self._manners = manners or Manners()
        self._inboxes: set[_Inbox] = set()
        self._aborted = False

    async def run(
        self, requests: Sequence[GenerationRequest]
    ) -> AsyncGenerator[GenerationOutput, None]:
        """The outputs of `requests` as they come, until all are finished. Whoever stops
        iterating must close the iterator: that cancels in the engine what is not finished.

        Raises:
            RequestError: a request can never run; none of the others goes on.
            UnshardError: a request failed; none of the others goes on.
            HTTPException: 429, too many wait; 503, the server is shutting down; 504, they took
                longer than a call may.
        """
        if self._aborted:
            raise _shutting_down()
        self._refuse_when_full()
        inbox: _Inbox = asyncio.Queue()
        unfinished: dict[str, GenerationMeter] = {}
        self._inboxes.add(inbox)
        deadline = self._deadline(inbox)
        try:
            deliver = _deliverer(inbox)
            for request in requests:
                self._engine.submit(request, deliver)
                unfinished[request.request_id] = self.metrics.generation(request)
            while unfinished:
                output = await inbox.get()
                if isinstance(output, HTTPException):
                    raise output
                unfinished[output.request_id].came(output)
                if output.finished:
                    del unfinished[output.request_id]
                if output.error is not None:
                    raise output.error
                yield output
        finally:
            if deadline is not None:
                deadline.cancel()
            self._inboxes.discard(inbox)
            for request_id in unfinished:
                self._engine.cancel(request_id)

    def abort(self) -> None:
        """Ends all calls with 503, now and from now on. Call it in the event loop."""
        self.ending = self._aborted = True
        for inbox in self._inboxes:
            inbox.put_nowait(_shutting_down())

    def _refuse_when_full(self) -> None:
        if self._engine.statistics().num_waiting >= self._manners.max_queue:
            raise HTTPException(
                429,
                "too many requests are waiting; try again later",
                {"retry-after": str(RETRY_SECONDS)},
            )

    def _deadline(self, inbox: _Inbox) -> asyncio.TimerHandle | None:
        seconds = self._manners.request_seconds
        if seconds is None:
            return None
        late = HTTPException(504, f"the request took longer than {seconds:g} s")
        return asyncio.get_running_loop().call_later(seconds, inbox.put_nowait, late)


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`, or None when the client went away first, which cancels it.

    `receive` must have given the whole request body before.
    """
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _deliverer(inbox: _Inbox) -> Callable[[GenerationOutput], None]:
    loop = asyncio.get_running_loop()

    def deliver(output: GenerationOutput) -> None:
        # The engine may outlive the loop by a moment; then nobody waits for the output.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(inbox.put_nowait, output)

    return deliver


def _shutting_down() -> HTTPException:
    return HTTPException(503, "the server is shutting down")
