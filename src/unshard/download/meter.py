"""Adds up what all connections do into one report to `Progress`."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from unshard.download.connection import Connection, Connections
from unshard.progress import Files, Progress, shown_bytes

SECONDS_TO_JUDGE_BY = 10.0
"""How long the rate is watched before it is held against the end of the link."""


class Meter:
    """The progress of one download of `num_files` files into `directory`, beside `num_whole`
    that are there already.

    Sizes become known file by file; until all are, the total is estimated from their mean,
    and `Progress.start` is called again whenever the estimate changes. Once the rate is known,
    a link that ends before the download is told, while a fresh one can be asked for;
    `link_end` gives the end (UTC) of the link in use.
    """

    def __init__(
        self,
        progress: Progress,
        num_files: int,
        directory: Path,
        link_end: Callable[[], datetime | None],
        *,
        num_whole: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.received_bytes = 0
        self._progress = progress
        self._num_files = num_files
        self._num_whole = self._num_whole_before = num_whole
        self._directory = directory
        self._clock = clock
        self._connections = Connections()
        self._forecast = _Forecast(link_end, clock)
        self._lock = threading.Lock()
        self._sizes: dict[str, int] = {}
        self._total_bytes = 0
        self._done_bytes = 0
        self._warned = False

    def file_size(self, name: str, size_bytes: int) -> None:
        """The file `name` is `size_bytes` long."""
        with self._lock:
            self._sizes[name] = size_bytes
            total_bytes = sum(self._sizes.values()) * self._num_files // len(self._sizes)
            if total_bytes == self._total_bytes:
                return
            self._total_bytes = total_bytes
            self._progress.start("download", total_bytes, self._files)
            self._warn_of_space()

    @property
    def total_bytes(self) -> int:
        """Of all files that were not whole before, as far as is known by now."""
        return self._total_bytes

    @property
    def left(self) -> str:
        """The bytes still to come, in words: `131.2 GB`, or `about 131.2 GB` where not all sizes
        are known; nothing where none is."""
        with self._lock:
            about = "about " if len(self._sizes) < self._num_files else ""
            left_bytes = max(self._total_bytes - self._done_bytes, 0)
            return f"{about}{shown_bytes(left_bytes)}" if self._sizes else ""

    @contextmanager
    def connection(self, name: str) -> Iterator[Connection]:
        """One connection brings bytes of the file `name`, as others may at the same time."""
        connection = Connection((name,), self._received, self._clock)
        with self._at_work(connection):
            yield connection

    @contextmanager
    def checking(
        self, names: Iterable[str], *, have_counted: bool = False
    ) -> Iterator[Callable[[int], None]]:
        """The files `names` are read from the disk and hashed; what is yielded counts their
        bytes, from any thread. They `have_counted` if they have arrived just now."""
        check = Connection(tuple(names), _ignore if have_counted else self.advance, self._clock)
        lock = threading.Lock()

        def advance(num_bytes: int) -> None:
            with lock:
                check.received(num_bytes)

        with self._at_work(check, is_check=True):
            yield advance

    def advance(self, num_bytes: int) -> None:
        """`num_bytes` are there; negative when they were given up."""
        with self._lock:
            self._done_bytes += num_bytes
        self._progress.advance(num_bytes)

    def file(self, name: str) -> None:
        """The file `name` is whole and has its final name."""
        with self._lock:
            self._num_whole += 1
        self._progress.file(name)

    def note(self, line: str) -> None:
        self._progress.note(line)

    @contextmanager
    def _at_work(self, connection: Connection, is_check: bool = False) -> Iterator[None]:
        self._connections.open(connection, is_check=is_check)
        try:
            yield
        finally:
            self._connections.close(connection)
            connection.report()

    def _files(self) -> Files:
        """Takes no lock that is held while `Progress` is called."""
        return Files(
            self._num_whole,
            self._num_whole_before + self._num_files,
            self.received_bytes,
            self._connections.busy(),
        )

    def _received(self, num_bytes: int) -> None:
        with self._lock:
            self.received_bytes += num_bytes
        self.advance(num_bytes)
        with self._lock:
            left_bytes = self._total_bytes - self._done_bytes
            warning = self._forecast.warning(self.received_bytes, left_bytes)
        if warning:
            self.note(warning)

    def _warn_of_space(self) -> None:
        free_bytes = shutil.disk_usage(self._directory).free
        wanted_bytes = self._total_bytes - self._done_bytes
        if wanted_bytes > free_bytes and not self._warned:
            self._warned = True
            self.note(
                f"{self._directory}: about {shown_bytes(wanted_bytes)} still to come, "
                f"but only {shown_bytes(free_bytes)} are free"
            )


class _Forecast:
    """Holds the rate against the end of each link, once, when it can be judged."""

    def __init__(self, link_end: Callable[[], datetime | None], clock: Callable[[], float]) -> None:
        self._link_end = link_end
        self._clock = clock
        self._watched: datetime | None = None
        self._is_judged = False
        self._since = 0.0
        self._bytes_before = 0

    def warning(self, received_bytes: int, left_bytes: int) -> str | None:
        """What to say when the link in use ends before the `left_bytes` have come."""
        end, now = self._link_end(), self._clock()
        if end != self._watched:
            self._watched, self._is_judged = end, False
            self._since, self._bytes_before = now, received_bytes
        elapsed_s, came_bytes = now - self._since, received_bytes - self._bytes_before
        if end is None or self._is_judged or elapsed_s < SECONDS_TO_JUDGE_BY or not came_bytes:
            return None
        self._is_judged = True
        link_s = (end - datetime.now(UTC)).total_seconds()
        rate = came_bytes / elapsed_s
        left_s = left_bytes / rate
        if not left_s > link_s > 0:
            return None
        return (
            f"the rest takes {_duration(left_s)} at this rate ({rate / 1e6:.1f} MB/s), and the "
            f"link ends in {_duration(link_s)}: have a fresh one ready, the same command "
            "continues with it"
        )


def _ignore(_num_bytes: int) -> None:
    pass


def _duration(seconds: float) -> str:
    if seconds < 5400:
        return f"{max(seconds / 60, 1):.0f} min"
    return f"{seconds / 3600:.0f} h"
