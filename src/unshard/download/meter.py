"""Adds up what all connections do into one report to `Progress`."""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from unshard.progress import Progress

SECONDS_TO_JUDGE_BY = 10.0
"""How long the rate is watched before it is held against the end of the link."""

SECONDS_BETWEEN_REPORTS = 0.1
"""So often at most a connection takes the lock and tells what it brought."""


class Meter:
    """The progress of one download of `num_files` files into `directory`.

    Sizes become known file by file; until all are, the total is estimated from their mean,
    and `Progress.start` is called again whenever the estimate changes. Once the rate is known,
    a link that ends before the download (`link_end`) is told, while a fresh one can be asked for.
    """

    def __init__(
        self,
        progress: Progress,
        num_files: int,
        directory: Path,
        link_end: datetime | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress = progress
        self._link_end = link_end
        self._clock = clock
        self._receiving_since: float | None = None
        self._num_files = num_files
        self._directory = directory
        self._lock = threading.Lock()
        self._sizes: dict[str, int] = {}
        self._total_bytes = 0
        self._done_bytes = 0
        self._warned = False
        self.received_bytes = 0

    def file_size(self, name: str, size_bytes: int) -> None:
        """The file `name` is `size_bytes` long."""
        with self._lock:
            self._sizes[name] = size_bytes
            total_bytes = sum(self._sizes.values()) * self._num_files // len(self._sizes)
            if total_bytes == self._total_bytes:
                return
            self._total_bytes = total_bytes
            self._progress.start("download", total_bytes)
            self._warn_of_space()

    @contextmanager
    def connection(self, name: str) -> Iterator[Connection]:
        """One connection brings bytes of the file `name`, as others may at the same time."""
        connection = Connection(name, self._received, self._clock)
        try:
            yield connection
        finally:
            connection.report()

    @contextmanager
    def checking(self, name: str) -> Iterator[Callable[[int], None]]:
        """The file `name` is read from the disk and hashed; what is yielded counts its bytes."""
        check = Connection(name, self.advance, self._clock)
        try:
            yield check.received
        finally:
            check.report()

    def advance(self, num_bytes: int) -> None:
        """`num_bytes` are there; negative when they were given up."""
        with self._lock:
            self._done_bytes += num_bytes
        self._progress.advance(num_bytes)

    def note(self, line: str) -> None:
        self._progress.note(line)

    def _received(self, num_bytes: int) -> None:
        with self._lock:
            self.received_bytes += num_bytes
        self.advance(num_bytes)
        self._predict()

    def _warn_of_space(self) -> None:
        free_bytes = shutil.disk_usage(self._directory).free
        wanted_bytes = self._total_bytes - self._done_bytes
        if wanted_bytes > free_bytes and not self._warned:
            self._warned = True
            self.note(
                f"{self._directory}: about {wanted_bytes / 2**30:.1f} GiB still to come, "
                f"but only {free_bytes / 2**30:.1f} GiB are free"
            )

    def _predict(self) -> None:
        """Say once, when it can be judged, that the link ends first."""
        with self._lock:
            if self._link_end is None:
                return
            now = self._clock()
            if self._receiving_since is None:
                self._receiving_since = now
            elapsed_s = now - self._receiving_since
            if elapsed_s < SECONDS_TO_JUDGE_BY or not self.received_bytes:
                return
            link_s = (self._link_end - datetime.now(UTC)).total_seconds()
            self._link_end = None
            rate = self.received_bytes / elapsed_s
            left_s = (self._total_bytes - self._done_bytes) / rate
        if left_s > link_s > 0:
            self.note(
                f"the rest takes {_duration(left_s)} at this rate ({rate / 1e6:.1f} MB/s), and the "
                f"link ends in {_duration(link_s)}: have a fresh one ready, the same command "
                "continues with it"
            )


class Connection:
    """What one thread brings of the file `name`: counted without a lock, told now and then."""

    def __init__(
        self, name: str, report: Callable[[int], None], clock: Callable[[], float]
    ) -> None:
        self.name = name
        self.num_bytes = 0
        self._report = report
        self._clock = clock
        self._reported_bytes = 0
        self._reported_at = -math.inf  # the first bytes are told at once: more may not come

    def received(self, num_bytes: int) -> None:
        """`num_bytes` more came and are kept; for one thread."""
        self.num_bytes += num_bytes
        if self._clock() - self._reported_at >= SECONDS_BETWEEN_REPORTS:
            self.report()

    def report(self) -> None:
        """Tell what has not been told yet."""
        num_bytes = self.num_bytes - self._reported_bytes
        self._reported_bytes, self._reported_at = self.num_bytes, self._clock()
        self._report(num_bytes)


def _duration(seconds: float) -> str:
    if seconds < 5400:
        return f"{max(seconds / 60, 1):.0f} min"
    return f"{seconds / 3600:.0f} h"
