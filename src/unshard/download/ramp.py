"""How many connections to use: more of them, for as long as more bring more."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST_CONNECTIONS = 2
"""Where the line is fast, these keep one core busy, and more threads would only hand the GIL to
each other: over https 4 of them took a third more processor time."""
GROWTH = 4
"""So many times as many connections follow, where the processor waits: up to
`USUAL_CONNECTIONS` within two looks."""
USUAL_CONNECTIONS = 32
"""Most servers bear so many, and waiting for answers costs nothing: no more is proved by rates."""
BUSY = 0.5
"""How much of one core this process uses where it, not the line, is the limit: what all threads do
under the GIL comes to no more than one."""
LEAST_S = 0.1
"""Seconds that the use of the processor is taken over."""
WINDOW_S = 0.5
"""Seconds that a rate is taken over, and before that, seconds for new connections to begin."""
LEAST_GAIN = 1.5
"""What twice as many connections must bring to be doubled once more."""


class Ramp:
    """The number of connections of one download, at most `most`; never fewer than before.

    Up to `USUAL_CONNECTIONS` they grow fast while the processor idles, for then it waits for
    a line or a server; beyond, they are doubled while that brings more.
    """

    def __init__(
        self,
        most: int,
        clock: Callable[[], float] = time.monotonic,
        used_s: Callable[[], float] = time.process_time,
    ) -> None:
        self.connections = min(FIRST_CONNECTIONS, most)
        self._most = most
        self._clock = clock
        self._used_s = used_s
        self._since: tuple[float, float, int] | None = None
        self._is_settled = True
        self._base: float | None = None

    def look(self, received_bytes: int, *, is_short: bool) -> int:
        """How many to use, when so many bytes have come in all; to be called now and then.

        `is_short`: there is more to fetch than the connections so far can take on. Whatever
        comes while there is not says nothing.
        """
        here = (self._clock(), self._used_s(), received_bytes)
        if self._since is None or not is_short:
            self._since = here
            return self.connections
        elapsed_s, used_s, num_bytes = (
            now - then for now, then in zip(here, self._since, strict=True)
        )
        is_usual = self.connections < USUAL_CONNECTIONS
        if self.connections < self._most and elapsed_s >= (LEAST_S if is_usual else WINDOW_S):
            self._since = here
            if is_usual:
                self._judge_use(used_s / elapsed_s)
            else:
                self._judge_rate(num_bytes / elapsed_s)
        return self.connections

    def _judge_use(self, used: float) -> None:
        if used < BUSY:
            self.connections = min(GROWTH * self.connections, USUAL_CONNECTIONS, self._most)

    def _judge_rate(self, rate: float) -> None:
        if not self._is_settled:
            self._is_settled = True
        elif self._base is None or rate >= LEAST_GAIN * self._base:
            self._base = rate
            self.connections = min(2 * self.connections, self._most)
            self._is_settled = False
        else:
            self._most = self.connections
