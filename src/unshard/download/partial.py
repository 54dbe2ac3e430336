"""The part of a file that has arrived: `NAME.partial`, its length and its running hash."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Self

from unshard.disk import sync_directory
from unshard.download.disk import disk_errors
from unshard.manifest import PARTIAL_SUFFIX, Digest

_READ_BYTES = 2**20


class Partial:
    """`NAME.partial` in `directory`, open for appending; always a prefix of one object.

    Raises:
        DestinationError, NoSpaceError: from every method that touches the disk.
    """

    def __init__(self, directory: Path, name: str, algorithm: str) -> None:
        self.path = directory / name
        self.partial_path = directory / (name + PARTIAL_SUFFIX)
        self.num_bytes = 0
        self._algorithm = algorithm
        self._hash = hashlib.new(algorithm, usedforsecurity=False)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        with disk_errors(self.partial_path):
            self._fd = os.open(self.partial_path, flags, 0o666)

    @property
    def digest(self) -> Digest:
        """Of the bytes so far."""
        return Digest(self._algorithm, self._hash.hexdigest())

    def stored_bytes(self) -> int:
        """How many bytes an earlier run left."""
        return os.fstat(self._fd).st_size

    def resume(self, advance: Callable[[int], None]) -> None:
        """Take over the bytes of an earlier run: hash them, continue after them."""
        with disk_errors(self.partial_path):
            while block := os.pread(self._fd, _READ_BYTES, self.num_bytes):
                self._hash.update(block)
                self.num_bytes += len(block)
                advance(len(block))

    def restart(self) -> None:
        """Forget all bytes: on disk too before anything else is written, power cut or not."""
        with disk_errors(self.partial_path):
            os.ftruncate(self._fd, 0)
            os.fsync(self._fd)
        self.num_bytes = 0
        self._hash = hashlib.new(self._algorithm, usedforsecurity=False)

    def append(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        with disk_errors(self.partial_path):
            while view:
                written = os.pwrite(self._fd, view, self.num_bytes)
                self._hash.update(view[:written])
                self.num_bytes += written
                view = view[written:]

    def publish(self) -> os.stat_result:
        """Give the file its final name, durably; its size and times are returned."""
        with disk_errors(self.path):
            os.fsync(self._fd)
            self.partial_path.replace(self.path)
            sync_directory(self.path.parent)
            return os.fstat(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        os.close(self._fd)
        if not self.num_bytes:
            self.partial_path.unlink(missing_ok=True)
