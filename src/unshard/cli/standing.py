"""How a piece of work stands: what every display of progress shows, each in its own way."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from unshard.progress import Busy, Files

SMOOTHING_S = 15.0
"""What happened so long ago counts 1/e of what happens now."""

SECONDS_BETWEEN_LOOKS = 0.2

LONGEST_FORECAST_S = 1e7
"""A rate that would take longer, four months, is what is left of one: nothing moves."""


class SmoothRate:
    """Bytes per second, out of a count that is looked at from time to time.

    The count at the first look is where it begins, and it begins when the count first moves: what
    had been done before, and how long it took until anything came, say nothing.
    """

    def __init__(self, smoothing_s: float = SMOOTHING_S) -> None:
        self._smoothing_s = smoothing_s
        self._seen: tuple[float, int] | None = None
        self._num_bytes = self._seconds = 0.0

    def look(self, now: float, num_bytes: int) -> None:
        """At `now`, in seconds, the count is `num_bytes`. One that falls has lost nothing."""
        then, before = self._seen or (now, num_bytes)
        if not self._seconds and num_bytes <= before:
            self._seen = (now, num_bytes)
            return
        elapsed_s = now - then
        if elapsed_s < SECONDS_BETWEEN_LOOKS:
            return
        self._seen = (now, num_bytes)
        kept = math.exp(-elapsed_s / self._smoothing_s)
        self._num_bytes = self._num_bytes * kept + max(num_bytes - before, 0)
        self._seconds = self._seconds * kept + elapsed_s

    @property
    def per_second(self) -> float:
        return self._num_bytes / self._seconds if self._seconds else 0.0


@dataclass(frozen=True, slots=True)
class Figures:
    """One look at a piece of work."""

    what: str
    done_bytes: int
    total_bytes: int
    rate: float
    """Bytes per second, smoothed."""
    files: Files | None

    @property
    def left_s(self) -> float | None:
        """Seconds left at this rate, None while nothing moves."""
        left_bytes = max(self.total_bytes - self.done_bytes, 0)
        return left_bytes / self.rate if left_bytes < self.rate * LONGEST_FORECAST_S else None

    @property
    def num_connections(self) -> int:
        return sum(not each.is_check for each in self._busy)

    @property
    def num_checks(self) -> int:
        """How many files are hashed."""
        return sum(len(each.names) for each in self._busy if each.is_check)

    @property
    def _busy(self) -> tuple[Busy, ...]:
        return self.files.busy if self.files else ()


class Standing:
    """Keeps count of the piece of work that is under way. Safe from many threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._lock = threading.Lock()
        self._what: str | None = None
        self._total_bytes = self._done_bytes = 0
        self._look_at_files: Callable[[], Files] | None = None
        self._done = SmoothRate()
        self._received = SmoothRate()

    def is_another(self, what: str, files: Callable[[], Files] | None) -> bool:
        """Whether this is another piece of work, not the same that is known better."""
        return (what, files) != (self._what, self._look_at_files)

    def start(self, what: str, total_bytes: int, files: Callable[[], Files] | None) -> None:
        """As in `Progress`."""
        received_bytes = (files().received_bytes or 0) if files else 0
        with self._lock:
            if self.is_another(what, files):
                self._what, self._look_at_files, self._done_bytes = what, files, 0
                self._done, self._received = SmoothRate(), SmoothRate()
                self._received.look(self.clock(), received_bytes)
            self._total_bytes = total_bytes

    def advance(self, num_bytes: int) -> None:
        with self._lock:
            self._done_bytes += num_bytes
            self._done.look(self.clock(), self._done_bytes)

    def figures(self) -> Figures | None:
        """None before any work has begun."""
        look = self._look_at_files
        files = look() if look else None
        with self._lock:
            if self._what is None:
                return None
            rate, done_bytes = self._rate(files), max(self._done_bytes, 0)
            return Figures(self._what, done_bytes, self._total_bytes, rate, files)

    def _rate(self, files: Files | None) -> float:
        """Of what comes over the network, unless files are only checked: that is so much faster
        that its bytes would promise an early end."""
        now = self.clock()
        self._done.look(now, self._done_bytes)
        if files is None or files.received_bytes is None:
            return self._done.per_second
        if files.busy and all(each.is_check for each in files.busy):
            return self._done.per_second
        self._received.look(now, files.received_bytes)
        return self._received.per_second
