"""A file that is also the lock of its folder, and may be replaced while it is."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from unshard.disk import take_lock
from unshard.errors import DestinationError

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_locked(path: Path) -> tuple[int, bool]:
    """A descriptor of the file `path`, made where there is none, to append to it; and whether
    it is locked, which some file systems cannot do.

    Raises:
        DestinationError: another process has the lock, or it is no file.
        OSError: the file cannot be opened.
    """
    while True:
        fd = os.open(path, _FLAGS, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise DestinationError(f"{path}: is no file", hint="move it away")
            is_locked = _lock(fd, path.parent)
        except BaseException:
            os.close(fd)
            raise
        if _is_still(path, fd):
            return fd, is_locked
        os.close(fd)  # replaced between the two calls: its lock keeps nobody out


def _is_still(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _lock(fd: int, directory: Path) -> bool:
    try:
        return take_lock(fd)
    except BlockingIOError as error:
        raise DestinationError(
            f"{directory}: another download is writing to this folder",
            hint="wait for it, or choose another folder",
        ) from error
    except OSError as error:
        raise DestinationError(f"{directory}: cannot be locked: {error.strerror}") from error
