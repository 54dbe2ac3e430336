"""What the files of one download share."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from pathlib import Path

from unshard.download.disk import Space
from unshard.download.journal import Journal
from unshard.download.link import Link
from unshard.download.meter import Meter
from unshard.download.rate import RateLimit
from unshard.download.retry import RetryBudget, RetryPolicy
from unshard.download.transport import Transport


@dataclass(frozen=True, slots=True)
class Session:
    """One download into one folder; used by all of its threads."""

    link: Link
    directory: Path
    transport: Transport
    journal: Journal
    meter: Meter
    retry: RetryPolicy
    budget: RetryBudget
    space: Space
    rate: RateLimit | None = None
    _stop: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """End all work: whoever waits or reads raises `CancelledError` soon."""
        self._stop.set()
        self.transport.abort()

    def check(self) -> None:
        """
        Raises:
            CancelledError: the session was stopped.
        """
        if self._stop.is_set():
            raise CancelledError

    def sleep(self, seconds: float) -> None:
        """
        Raises:
            CancelledError: the session was stopped, before or during the sleep.
        """
        if self._stop.wait(seconds):
            raise CancelledError
