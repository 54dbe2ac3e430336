"""The bytes of a file that have arrived: `NAME.partial`."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

from unshard.download.disk import disk_errors
from unshard.errors import DestinationError
from unshard.manifest import PARTIAL_SUFFIX

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Partial:
    """`NAME.partial` in `directory`, open for writing anywhere.

    Raises:
        DestinationError, NoSpaceError: from every method that touches the disk.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._path = directory / (name + PARTIAL_SUFFIX)
        self._closing = threading.Lock()
        self._is_open = True
        with disk_errors(self._path):
            self._fd = os.open(self._path, _FLAGS, 0o666)
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            os.close(self._fd)
            raise DestinationError(
                f"{self._path}: is no file, and will not be written over", hint="move it away"
            )

    def length(self) -> int:
        return os.fstat(self._fd).st_size

    def adopt(self, path: Path) -> None:
        """Go on with the file `path` in place of what is there."""
        with disk_errors(path), self._closing:
            path.replace(self._path)
            os.close(self._fd)
            self._fd = os.open(self._path, _FLAGS, 0o666)

    def set_length(self, num_bytes: int) -> None:
        """Cut it off, or lengthen it by a hole."""
        with disk_errors(self._path):
            os.ftruncate(self._fd, num_bytes)

    def clear(self) -> None:
        """Forget all bytes: on disk too before anything else is written, power cut or not."""
        with disk_errors(self._path):
            os.ftruncate(self._fd, 0)
            os.fsync(self._fd)

    def write(self, offset: int, view: memoryview) -> int:
        """Put bytes at `offset`; how many were written: at least one, maybe not all."""
        with disk_errors(self._path):
            return os.pwrite(self._fd, view, offset)

    def sync(self) -> None:
        """Make what was written survive a power cut; nothing, if it was closed meanwhile."""
        with self._closing, disk_errors(self._path):
            if self._is_open:
                os.fsync(self._fd)

    def close(self, *, keep: bool) -> None:
        with self._closing:
            self._is_open = False
            os.close(self._fd)
        if not keep:
            self._path.unlink(missing_ok=True)
