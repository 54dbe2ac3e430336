"""Progress in plain lines, for a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TextIO

from unshard.cli.printable import printable
from unshard.cli.quantities import format_duration
from unshard.cli.standing import Figures, Standing
from unshard.progress import Files, shown_bytes

SECONDS_BETWEEN_LINES = 10.0
MOST_SECONDS_BETWEEN_LINES = 60.0
PERCENT_BETWEEN_LINES = 5
"""So far it has come when a line is worth it before `MOST_SECONDS_BETWEEN_LINES`."""
_NONE_YET = -PERCENT_BETWEEN_LINES


class LineProgress:
    """Rare lines that say how far the work is, and every note at once."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._standing = Standing(clock)
        self._clock = clock
        self._lock = threading.Lock()
        self._last = (clock(), _NONE_YET)
        """When the last line was written, and the percents in it."""

    def start(self, what: str, total_bytes: int, files: Callable[[], Files] | None = None) -> None:
        with self._lock:
            if self._standing.is_another(what, files):
                self._last = (self._clock(), _NONE_YET)
            self._standing.start(what, total_bytes, files)

    def advance(self, num_bytes: int) -> None:
        self._standing.advance(num_bytes)
        with self._lock:
            if self._clock() - self._last[0] >= SECONDS_BETWEEN_LINES:
                self._write_if_due()

    def file(self, name: str) -> None:
        """Counted in the next line."""

    def note(self, line: str) -> None:
        with self._lock:
            self._write(printable(line))

    def _write_if_due(self) -> None:
        figures, now = self._standing.figures(), self._clock()
        if figures is None:
            return
        then, before = self._last
        percent = _percent(figures)
        if abs(percent - before) >= PERCENT_BETWEEN_LINES or (
            now - then >= MOST_SECONDS_BETWEEN_LINES
        ):
            self._last = (now, percent)
            self._write(_line(figures))

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


def _percent(figures: Figures) -> int:
    return min(100 * figures.done_bytes // max(figures.total_bytes, 1), 100)


def _line(figures: Figures) -> str:
    done, total = shown_bytes(figures.done_bytes), shown_bytes(figures.total_bytes)
    told = [f"{done} of {total} ({_percent(figures)} %)"]
    if files := figures.files:
        told.append(f"{files.num_whole} of {files.num_files} files")
    told.append(f"{shown_bytes(round(figures.rate))}/s")
    if figures.left_s is not None:
        told.append(f"{format_duration(figures.left_s)} left")
    if figures.num_checks:
        told.append(f"checking {figures.num_checks}")
    return f"{figures.what}: {', '.join(told)}"
