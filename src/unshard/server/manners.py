"""How a server treats its clients; `docs/serving.md` says it in full."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Manners:
    """What the operator chose. The defaults suit one machine and its own user."""

    api_keys: tuple[str, ...] = field(default=(), repr=False)
    """One of them opens the API; none asks nobody."""
    cors_origins: tuple[str, ...] = ()
    """Origins of pages that may call the API; `*` is any."""
    max_queue: int = 1024
    """With so many generations waiting, the next call is refused."""
    request_seconds: float | None = None
    """How long a call may take from its arrival at the engine."""
    client_seconds: float = 30
    """How long a client may take to send its request, or to take what is sent to it."""
    drain_seconds: float = 20
    """How long running requests may go on after the signal to end."""
    access_log: bool = False
    log_prompts: bool = False
    """Also log the bodies of requests."""
