"""Two works that report to one progress: the download shows, the reshard waits behind it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from unshard.progress import Progress, Silent


class Checking:
    """A progress whose every advance calls `check`, which may raise to end the work."""

    def __init__(self, progress: Progress, check: Callable[[], None]) -> None:
        self._progress, self._check = progress, check

    def advance(self, num_bytes: int) -> None:
        self._check()
        self._progress.advance(num_bytes)

    def __getattr__(self, name: str) -> Any:
        """All else is as it was."""
        return getattr(self._progress, name)


class Behind(Silent):
    """Keeps to itself what it hears until `show`, when another work has ended."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._is_shown = False
        self._what, self.total_bytes, self.done_bytes = "", 0, 0

    def start(self, what: str, total_bytes: int) -> None:
        with self._lock:
            self._what, self.total_bytes = what, total_bytes
            if self._is_shown:
                self._progress.start(what, total_bytes)

    def advance(self, num_bytes: int) -> None:
        with self._lock:
            self.done_bytes += num_bytes
            if self._is_shown:
                self._progress.advance(num_bytes)

    def note(self, line: str) -> None:
        self._progress.note(line)

    def show(self) -> None:
        """From here on it is heard, and all that was before at once."""
        with self._lock:
            self._is_shown = True
            self._progress.start(self._what, self.total_bytes)
            self._progress.advance(self.done_bytes)
