"""What the files of one download share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from unshard.download.journal import Journal
from unshard.download.link import Link
from unshard.download.meter import Meter
from unshard.download.rate import RateLimit
from unshard.download.retry import RetryPolicy
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
    rate: RateLimit | None = None
    _stop: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """End all work: whoever waits, reads or hashes raises `CancelledError` soon."""
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

    @contextmanager
    def checking(self, name: str) -> Iterator[Callable[[int], None]]:
        """The file `name`, on the disk already, is hashed: what is yielded counts its bytes.

        Raises:
            CancelledError: from each count, when the session was stopped.
        """
        with self.meter.checking([name]) as count:

            def advance(num_bytes: int) -> None:
                self.check()
                count(num_bytes)

            yield advance
