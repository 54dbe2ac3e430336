"""Two works that report to one progress: the download shows, the reshard waits behind it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from unshard.progress import Progress


class _Same:
    """All of a progress that a subclass does not say otherwise."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __getattr__(self, name: str) -> Any:
        return getattr(self._progress, name)


class Checking(_Same):
    """A progress whose every advance calls `check`, which may raise to end the work."""

    def __init__(self, progress: Progress, check: Callable[[], None]) -> None:
        super().__init__(progress)
        self._check = check

    def advance(self, num_bytes: int) -> None:
        self._check()
        self._progress.advance(num_bytes)


class Behind(_Same):
    """Keeps to itself how far a work is until `show`, when another one has ended."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(progress)
        self._lock = threading.Lock()
        self._is_shown = False
        self._start: tuple[Any, ...] = ("", 0)
        self.done_bytes = 0

    @property
    def total_bytes(self) -> int:
        return int(self._start[1])

    def start(self, what: str, total_bytes: int, *more: Any) -> None:
        with self._lock:
            self._start = (what, total_bytes, *more)
            if self._is_shown:
                self._progress.start(*self._start)

    def advance(self, num_bytes: int) -> None:
        with self._lock:
            self.done_bytes += num_bytes
            if self._is_shown:
                self._progress.advance(num_bytes)

    def show(self) -> None:
        """From here on it is heard, and all that was before at once."""
        with self._lock:
            self._is_shown = True
            self._progress.start(*self._start)
            self._progress.advance(self.done_bytes)
