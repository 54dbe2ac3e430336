"""Runs an engine in one background thread, so that a server may submit from any other."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from unshard.architectures.opt import OPTConfig
from unshard.engine.engine import Engine
from unshard.engine.request import GenerationOutput, GenerationRequest
from unshard.engine.statistics import EngineStatistics
from unshard.engine.tokenizer import Tokenizer
from unshard.errors import EngineLostError, RequestError, UnshardError
from unshard.parallel.watch import END_SECONDS

OutputCallback = Callable[[GenerationOutput], None]
"""Called in the engine's thread: be quick and never block."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Cancel:
    request_id: str


class EngineThread:
    """Owns an `Engine` and steps it in a background thread while it has work. Thread-safe."""

    def __init__(self, engine: Engine, on_stuck: Callable[[], None] | None = None) -> None:
        """`on_stuck` is called where `close` waits for more than `END_SECONDS` for a step, and
        makes it fail if it waits for somebody else."""
        self._engine = engine
        self._on_stuck = on_stuck
        self._changed = threading.Condition()
        # All of these are guarded by `_changed`; the engine itself is touched by the thread alone.
        self._inbox: deque[GenerationRequest | _Cancel] = deque()
        self._callbacks: dict[str, OutputCallback | None] = {}
        self._closing = False
        self._lost: EngineLostError | None = None
        self._on_loss: Callable[[], None] | None = None
        self._statistics = engine.statistics()
        self._thread = threading.Thread(target=self._run, name="unshard-engine", daemon=True)
        self._thread.start()

    @property
    def config(self) -> OPTConfig:
        return self._engine.config

    @property
    def max_positions(self) -> int:
        return self.config.max_positions

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def is_alive(self) -> bool:
        """Whether it still takes requests."""
        return self._thread.is_alive() and not self._closing

    @property
    def tokenizer(self) -> Tokenizer:
        return self._engine.tokenizer

    def statistics(self) -> EngineStatistics:
        """As of the last step; requests that came since then wait. From any thread, at once."""
        with self._changed:
            arrived = sum(isinstance(message, GenerationRequest) for message in self._inbox)
            known = self._statistics
        return replace(known, num_waiting=known.num_waiting + arrived)

    def submit(self, request: GenerationRequest, on_output: OutputCallback) -> None:
        """Queue `request` and return at once. Every output of it goes to `on_output` in order,
        the last one with `finished` true. A callback that raises cancels its request.

        Raises:
            RequestError: the request can never run (too long, an unknown token id, a bad
                parameter) or its id is in use; `on_output` is never called.
            UnshardError: the thread is closed.
        """
        self._engine.validate(request)
        with self._changed:
            if self._closing:
                raise self._lost or UnshardError("the engine is closed")
            if request.request_id in self._callbacks:
                raise RequestError(
                    f"request id {request.request_id!r} is in use", param="request_id"
                )
            self._callbacks[request.request_id] = on_output
            self._inbox.append(request)
            self._changed.notify()

    def cancel(self, request_id: str) -> None:
        """Forget a request: its slot is free before the next step, and no output follows once
        this returns, except one that is being delivered. Other ids are ignored."""
        with self._changed:
            if self._callbacks.get(request_id) is not None:
                # The id stays taken until the engine has forgotten it, so that no output of
                # this request can reach a later one of the same id.
                self._callbacks[request_id] = None
                self._inbox.append(_Cancel(request_id))
                self._changed.notify()

    def close(self) -> None:
        """Fail what is still running with an error output, stop and join. Idempotent."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(END_SECONDS)
        if self._thread.is_alive() and self._on_stuck is not None:
            self._on_stuck()
        self._thread.join()

    def on_loss(self, call: Callable[[], None]) -> None:
        """Call `call` once if the thread dies before `close`, at once where it is dead already."""
        with self._changed:
            self._on_loss = call
            is_lost = self._lost is not None
        if is_lost:
            call()

    def check(self) -> None:
        """
        Raises:
            EngineLostError: the thread died.
        """
        if self._lost is not None:
            raise self._lost

    def _run(self) -> None:
        try:
            while self._take_messages():
                for output in self._step():
                    self._deliver(output)
        # Whatever it was, clients wait for an answer and the process for a reason to end.
        except BaseException as error:  # noqa: BLE001
            _LOG.error("the engine's thread died", exc_info=error)
            self._lose(error)
        else:
            self._fail_all(UnshardError("the engine was closed before the request was finished"))

    def _lose(self, error: BaseException) -> None:
        lost = EngineLostError(f"the engine died: {type(error).__name__}: {error}".split("\n")[0])
        with self._changed:
            self._closing, self._lost = True, lost
            call = self._on_loss
        self._fail_all(lost)
        if call is not None:
            call()

    def _fail_all(self, error: UnshardError) -> None:
        with self._changed:
            unfinished = list(self._callbacks)
        for request_id in unfinished:
            self._deliver(GenerationOutput(request_id, error=error))

    def _take_messages(self) -> bool:
        """Wait for work, pass arrivals and cancellations on in order; False when closing."""
        with self._changed:
            self._statistics = self._engine.statistics()
            self._changed.wait_for(lambda: self._closing or self._inbox or self._engine.has_work)
            while self._inbox:
                message = self._inbox.popleft()
                if isinstance(message, GenerationRequest):
                    self._engine.add(message)
                else:
                    self._engine.cancel(message.request_id)
                    del self._callbacks[message.request_id]
            self._statistics = self._engine.statistics()
            return not self._closing

    def _step(self) -> list[GenerationOutput]:
        try:
            return self._engine.step()
        except UnshardError as error:
            return self._engine.fail_step(error)
        # Outermost guard of the thread: whatever a kernel raises (out of memory, an internal
        # error) must end the requests of the step and never the engine for all others.
        except Exception as error:  # noqa: BLE001
            _LOG.error("a step of the engine failed", exc_info=error)
            return self._engine.fail_step(
                UnshardError(f"the engine failed: {type(error).__name__}: {error}")
            )

    def _deliver(self, output: GenerationOutput) -> None:
        with self._changed:
            callback = self._callbacks.get(output.request_id)
            if callback is None:
                return
            if output.finished:
                del self._callbacks[output.request_id]
        try:
            callback(output)
        # The callback is foreign code: its failure is its request's alone.
        except Exception as error:  # noqa: BLE001
            _LOG.error("a request's callback failed", exc_info=error)
            self.cancel(output.request_id)
