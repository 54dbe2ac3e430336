"""The request that a task works on."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that was gone before its answer began."""


@dataclass(slots=True)
class Visit:
    """One request on its way, and what it has cost up to now."""

    request_id: str
    status: int = CLIENT_CLOSED_REQUEST
    finished: bool = False
    prompt_tokens: int = 0
    generated_tokens: int = 0
    body: bytearray = field(default_factory=bytearray)


CURRENT: ContextVar[Visit] = ContextVar("visit")


def current_visit() -> Visit:
    """That of the request which this task works on; a nameless one where it works on none."""
    return CURRENT.get(None) or Visit("none")
