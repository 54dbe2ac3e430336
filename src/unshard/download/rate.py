"""A bound on the rate of a whole download, shared by all of its connections."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from unshard.download.body import BUFFER_BYTES

LONGEST_SILENCE_S = 10


class RateLimit:
    """At most `max_rate` bytes per second in the long run, whoever brings them.

    Every arrival books its share of time after the shares booked before; time that nobody
    used is lost, so that a pause is not followed by a burst.
    """

    def __init__(self, max_rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_rate = max_rate
        self._clock = clock
        self._lock = threading.Lock()
        self._booked_until = clock()

    @property
    def connections(self) -> int:
        """So many at most: then none is silent for so long between two reads that the server
        takes it for dead."""
        return max(1, LONGEST_SILENCE_S * self._max_rate // BUFFER_BYTES)

    def wait_s(self, num_bytes: int) -> float:
        """Seconds to wait after `num_bytes` came, before any more are read."""
        with self._lock:
            now = self._clock()
            self._booked_until = max(self._booked_until, now) + num_bytes / self._max_rate
            return self._booked_until - now
