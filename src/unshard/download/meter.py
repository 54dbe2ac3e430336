"""Adds up what all connections do into one report to `Progress`."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from unshard.progress import Progress


class Meter:
    """The progress of one download of `num_files` files into `directory`.

    Sizes become known file by file; until all are, the total is estimated from their mean,
    and `Progress.start` is called again whenever the estimate changes.
    """

    def __init__(self, progress: Progress, num_files: int, directory: Path) -> None:
        self._progress = progress
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

    def received(self, num_bytes: int) -> None:
        """`num_bytes` came over the network and are kept."""
        with self._lock:
            self.received_bytes += num_bytes
        self.advance(num_bytes)

    def advance(self, num_bytes: int) -> None:
        """`num_bytes` are there; negative when they were given up."""
        with self._lock:
            self._done_bytes += num_bytes
        self._progress.advance(num_bytes)

    def note(self, line: str) -> None:
        self._progress.note(line)

    def _warn_of_space(self) -> None:
        free_bytes = shutil.disk_usage(self._directory).free
        wanted_bytes = self._total_bytes - self._done_bytes
        if wanted_bytes > free_bytes and not self._warned:
            self._warned = True
            self.note(
                f"{self._directory}: about {wanted_bytes / 2**30:.1f} GiB still to come, "
                f"but only {free_bytes / 2**30:.1f} GiB are free"
            )
