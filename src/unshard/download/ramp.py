"""How many connections to use: more of them, for as long as more bring more."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST_CONNECTIONS = 32
"""Enough for most, and what most servers bear: 16 took a fifth longer where each is limited."""
WINDOW_S = 0.5
"""Seconds that a rate is taken over, and before that, seconds for new connections to begin."""
LEAST_GAIN = 1.5
"""What twice as many connections must bring to be doubled once more."""


class Ramp:
    """The number of connections of one download, at most `most`; never fewer than before."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.connections = min(FIRST_CONNECTIONS, most)
        self._most = most
        self._clock = clock
        self._since: tuple[float, int] | None = None
        self._is_settled = True
        self._base: float | None = None

    def look(self, received_bytes: int, *, is_short: bool) -> int:
        """How many to use, when so many bytes have come in all; to be called now and then.

        `is_short`: there is more to fetch than the connections so far can take on. Whatever
        rate comes while there is not says nothing.
        """
        now = self._clock()
        if self._since is None or not is_short:
            self._since = (now, received_bytes)
            return self.connections
        elapsed_s = now - self._since[0]
        if self.connections >= self._most or elapsed_s < WINDOW_S:
            return self.connections
        rate = (received_bytes - self._since[1]) / elapsed_s
        self._since = (now, received_bytes)
        if not self._is_settled:
            self._is_settled = True
        elif self._base is None or rate >= LEAST_GAIN * self._base:
            self._base = rate
            self.connections = min(2 * self.connections, self._most)
            self._is_settled = False
        else:
            self._most = self.connections
        return self.connections
