"""Whether a refusal is of the link or of one file: S3 answers 403 for a key that does not exist,
as it does for a dead link."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

Probe = Callable[[str], bool]
"""Asks for a file by the link: whether the server does not refuse it."""


class Doubt:
    """What one link was seen to serve. Safe from many threads."""

    def __init__(self) -> None:
        self._served: dict[str, None] = {}
        self._is_dead = False
        self._num_begun = 0
        self._last_alive = 0
        self._lock = threading.Lock()
        self._probing = threading.Lock()

    def serves(self, name: str) -> None:
        """The server gave the file `name` by it, or some of it."""
        with self._lock:
            self._served[name] = None

    def is_of_file(self, name: str, names: Iterable[str], probe: Probe) -> bool:
        """Whether the refusal of `name`, seen just now, is of that file alone.

        It is not if the link has served that file. Else another one is asked for: one that was
        served, or the first of `names`. A link is dead once and for all; that it is alive holds
        for those who were refused before the probe of one of them began.

        Raises:
            Exception: what `probe` raises; nothing is known then.
        """
        num_begun = self._num_begun
        with self._lock:
            served = tuple(self._served)
        witness = next((each for each in (*served, *names) if each != name), None)
        if name in served or witness is None:
            return False
        with self._probing:
            if not self._is_dead and self._last_alive <= num_begun:
                self._num_begun += 1
                self._is_dead = not probe(witness)
                self._last_alive = self._num_begun
            return not self._is_dead
