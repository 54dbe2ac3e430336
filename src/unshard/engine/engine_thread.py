"""Runs an engine in one background thread, so that a server may submit from any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from unshard.engine.request import GenerationOutput, GenerationRequest

if TYPE_CHECKING:
    from unshard.engine.engine import Engine

OutputCallback = Callable[[GenerationOutput], None]
"""Called in the engine's thread: be quick, never block, never raise."""


class EngineThread:
    """Owns an `Engine` and steps it in a background thread while it has work.

    Thread-safe. `config` and `tokenizer` are the engine's.
    """

    def __init__(self, engine: Engine) -> None: ...

    def submit(self, request: GenerationRequest, on_output: OutputCallback) -> None:
        """Queue `request`; every `GenerationOutput` of it goes to `on_output` in order, the
        last one with `finished` true. Returns at once.

        Raises:
            RequestError: the request can never run (too long, unknown token id, a bad
                parameter, an id in use); raised here, `on_output` is never called.
            UsageError: the thread is closed.
        """

    def cancel(self, request_id: str) -> None:
        """Forget a request; its slot is free before the next step and no output of it follows
        that step. Unknown or finished ids are ignored."""

    def close(self) -> None:
        """Fail what is still running with an error output, stop and join. Idempotent."""
