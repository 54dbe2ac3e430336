"""The model behind the API, as narrow as the server needs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from unshard.engine.request import GenerationOutput, GenerationRequest
from unshard.engine.statistics import EngineStatistics
from unshard.server.chat_template import ChatTemplate


class Engine(Protocol):
    """Generates in its own thread; `unshard.engine.engine_thread.EngineThread` is one."""

    @property
    def max_positions(self) -> int:
        """Tokens that fit the context, a prompt's and its continuation's."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id."""

    @property
    def is_alive(self) -> bool:
        """Whether it still takes requests."""

    def submit(
        self, request: GenerationRequest, on_output: Callable[[GenerationOutput], None]
    ) -> None:
        """Queue `request`; its outputs go to `on_output`, called in the engine's thread.

        Raises:
            RequestError: the request can never run; `on_output` is not called.
        """

    def cancel(self, request_id: str) -> None:
        """Forget a request; ids that are unknown or finished are ignored."""

    def on_loss(self, call: Callable[[], None]) -> None:
        """Call `call` once, in any thread, if the engine dies before `close`; at once where it is
        dead already. Its requests have failed by then."""

    def statistics(self) -> EngineStatistics:
        """What it is doing, as of its last step; at once."""

    def close(self) -> None:
        """Fail what is still running, stop and join. Idempotent."""


class Tokenizer(Protocol):
    """Text to ids and back; `unshard.engine.tokenizer.Tokenizer` is one."""

    def encode(self, text: str) -> Sequence[int]:
        """Ids of `text` as it is, nothing in front."""

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 bytes of one token, perhaps a part of a character; empty for specials."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`."""

    def display(self, token_id: int) -> str:
        """A name for a token that has no text of its own (`</s>`)."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model under the name that clients ask for."""

    name: str
    engine: Engine
    tokenizer: Tokenizer
    created: int
    """When it was loaded, in Unix seconds; `/v1/models` reports it."""
    chat_template: ChatTemplate | None = None
    """How the messages of a chat are written as text."""
