"""Hashing many files at the speed of all cores."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from pathlib import Path


def hash_files(
    paths: Iterable[Path], algorithm: str, *, advance: Callable[[int], None]
) -> Iterator[tuple[Path, str | OSError]]:
    """Each of `paths` with its digest in hex, or why it has none, as they are done.

    `advance` hears of every read, from several threads, and may raise to stop all.
    """
    stop = threading.Event()

    def advance_or_stop(num_bytes: int) -> None:
        if stop.is_set():
            raise CancelledError
        advance(num_bytes)

    executor = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="digest")
    try:
        futures = {executor.submit(_hash, path, algorithm, advance_or_stop): path for path in paths}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        stop.set()
        executor.shutdown(cancel_futures=True)


def has_lanes(algorithm: str) -> bool:  # noqa: ARG001  (none has, yet)
    """Whether several files are hashed at once by one core."""
    return False


def _hash(path: Path, algorithm: str, advance: Callable[[int], None]) -> str | OSError:
    try:
        with path.open("rb", buffering=0) as file:
            return hashlib.file_digest(_Counted(file, advance), algorithm).hexdigest()
    except OSError as error:
        return error


class _Counted:
    """As much of a binary file as `hashlib.file_digest` asks for, counting what it reads."""

    def __init__(self, file: io.FileIO, advance: Callable[[int], None]) -> None:
        self._file = file
        self._advance = advance

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:
        num_bytes = self._file.readinto(buffer)
        self._advance(num_bytes)
        return num_bytes
