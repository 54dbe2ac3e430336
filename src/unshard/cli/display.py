"""Progress on stderr: a bar for a person, rare plain lines for a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as RichProgress

from unshard.progress import Progress, Silent

SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def progress(stream: TextIO | None = None) -> Iterator[Progress]:
    """What to hand to a long piece of work; writes to `stream` (stderr)."""
    stream = stream or sys.stderr
    if stream is None:  # it was closed
        yield Silent()
        return
    if not stream.isatty():
        yield LineProgress(stream)
        return
    with TerminalProgress(stream) as bar:
        yield bar


class TerminalProgress:
    """A bar with bytes, rate and time left; a second `start` of the same work corrects its
    total."""

    def __init__(self, stream: TextIO) -> None:
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(file=stream),
            transient=True,
        )
        self._what: str | None = None
        self._task: TaskID | None = None

    def start(self, what: str, total_bytes: int) -> None:
        if self._task is not None and what == self._what:
            self._bar.update(self._task, total=total_bytes)
            return
        self._what = what
        self._task = self._bar.add_task(what, total=total_bytes)

    def advance(self, num_bytes: int) -> None:
        if self._task is not None:
            self._bar.advance(self._task, num_bytes)

    def note(self, line: str) -> None:
        self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._bar.stop()


class LineProgress:
    """At most one line every `SECONDS_BETWEEN_LINES`, and every note at once."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._lock = threading.Lock()
        self._what = ""
        self._total_bytes = self._done_bytes = 0
        self._started = self._last_line = clock()

    def start(self, what: str, total_bytes: int) -> None:
        with self._lock:
            if what != self._what:
                self._what, self._done_bytes = what, 0
                self._started = self._last_line = self._clock()
            self._total_bytes = total_bytes

    def advance(self, num_bytes: int) -> None:
        with self._lock:
            self._done_bytes += num_bytes
            now = self._clock()
            if now - self._last_line >= SECONDS_BETWEEN_LINES:
                self._last_line = now
                self._stream.write(self._line(now - self._started) + "\n")

    def note(self, line: str) -> None:
        with self._lock:
            self._stream.write(line + "\n")

    def _line(self, elapsed_s: float) -> str:
        rate = self._done_bytes / max(elapsed_s, 1e-9)
        left_s = (self._total_bytes - self._done_bytes) / rate if rate > 0 else 0
        percent = 100 * self._done_bytes // max(self._total_bytes, 1)
        return (
            f"{self._what}: {self._done_bytes / 2**30:.2f} of {self._total_bytes / 2**30:.2f} GiB "
            f"({percent} %), {rate / 1e6:.0f} MB/s, {left_s / 60:.0f} min left"
        )
