"""Progress as JSON, one object a line, for a program that watches (docs/progress.md)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import TextIO

from unshard.cli.standing import Figures, Standing
from unshard.progress import Files

SECONDS_BETWEEN_EVENTS = 0.5


def event_line(event: str, **fields: object) -> str:
    """One event with its line end; nothing but ASCII."""
    return json.dumps({"event": event, **fields}) + "\n"


class EventProgress:
    """Writes what happens as events; `progress` at most every `SECONDS_BETWEEN_EVENTS`."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._standing = Standing(clock)
        self._clock = clock
        self._lock = threading.Lock()
        self._last_event = clock()
        self._is_told = True
        """Whether all that was done is in an event."""

    def start(self, what: str, total_bytes: int, files: Callable[[], Files] | None = None) -> None:
        with self._lock:
            is_another = self._standing.is_another(what, files)
            if is_another:
                self._tell_rest()
            self._standing.start(what, total_bytes, files)
            if is_another:
                self._tell("start")

    def advance(self, num_bytes: int) -> None:
        self._standing.advance(num_bytes)
        with self._lock:
            self._is_told = False
            if self._clock() - self._last_event >= SECONDS_BETWEEN_EVENTS:
                self._tell("progress")

    def file(self, name: str) -> None:
        with self._lock:
            self._is_told = False
            self._write("file", name=name)

    def note(self, line: str) -> None:
        with self._lock:
            self._write("note", text=line)

    def close(self) -> None:
        """Tell how far it came."""
        with self._lock:
            self._tell_rest()

    def _tell_rest(self) -> None:
        if not self._is_told:
            self._tell("progress")

    def _tell(self, event: str) -> None:
        self._last_event, self._is_told = self._clock(), True
        if figures := self._standing.figures():
            self._write(event, **_fields(figures))

    def _write(self, event: str, **fields: object) -> None:
        self._stream.write(event_line(event, **fields))
        self._stream.flush()


def _fields(figures: Figures) -> dict[str, object]:
    """All fields of a look, null where the work has no such thing."""
    files, left_s = figures.files, figures.left_s
    return {
        "what": figures.what,
        "bytes": figures.done_bytes,
        "total_bytes": figures.total_bytes,
        "rate": round(figures.rate),
        "eta_s": None if left_s is None else round(left_s),
        "files": files.num_whole if files else None,
        "total_files": files.num_files if files else None,
        "connections": figures.num_connections,
        "checks": figures.num_checks,
    }
