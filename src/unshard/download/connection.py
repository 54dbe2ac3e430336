"""What each connection of a download brings, counted without a lock for every chunk."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from unshard.progress import Busy

SECONDS_BETWEEN_REPORTS = 0.1
"""So often at most a connection takes a lock to tell what it brought."""


class Connection:
    """What one thread brings of the file `names`, or what a check hashes of several."""

    def __init__(
        self, names: tuple[str, ...], report: Callable[[int], None], clock: Callable[[], float]
    ) -> None:
        self.names = names
        self.num_bytes = 0
        self._report = report
        self._clock = clock
        self._reported_bytes = 0
        self._reported_at = -math.inf  # the first bytes are told at once: more may not come

    def received(self, num_bytes: int) -> None:
        """`num_bytes` more came and are kept."""
        self.num_bytes += num_bytes
        if self._clock() - self._reported_at >= SECONDS_BETWEEN_REPORTS:
            self.report()

    def report(self) -> None:
        """Tell what has not been told yet."""
        num_bytes = self.num_bytes - self._reported_bytes
        self._reported_bytes, self._reported_at = self.num_bytes, self._clock()
        if num_bytes:
            self._report(num_bytes)


class Connections:
    """All connections and checks that are at work, each in a slot that it keeps.

    Takes no lock but its own, so anybody may look at any time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slots: list[tuple[Connection, bool] | None] = []
        self._earlier_bytes: list[int] = []

    def open(self, connection: Connection, *, is_check: bool) -> None:
        """`connection` is at work from now on."""
        with self._lock:
            if None not in self._slots:
                self._slots.append(None)
                self._earlier_bytes.append(0)
            self._slots[self._slots.index(None)] = (connection, is_check)

    def close(self, connection: Connection) -> None:
        """`connection` is done."""
        with self._lock:
            for slot, held in enumerate(self._slots):
                if held and held[0] is connection:
                    self._slots[slot] = None
                    self._earlier_bytes[slot] += connection.num_bytes

    def busy(self) -> tuple[Busy, ...]:
        """Those at work now, by slot."""
        with self._lock:
            return tuple(
                Busy(slot, held[0].names, held[0].num_bytes, self._earlier_bytes[slot], held[1])
                for slot, held in enumerate(self._slots)
                if held
            )
