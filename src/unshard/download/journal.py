"""What a folder already has: facts that a later run may trust, one JSON line each.

The journal lies in the folder that it describes and is only ever appended to, so a kill
at any moment costs at most its last line; a lost line costs time, never correctness. Its
file is also the lock that keeps two runs out of one folder. It holds no URL.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from unshard.download.disk import disk_errors
from unshard.errors import DestinationError
from unshard.finished import JOURNAL_NAME, Finished, parse_finished, parse_line

_NO_LOCKS_HERE = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@dataclass(frozen=True, slots=True)
class Begun:
    """`NAME.partial` holds a prefix of this object: `size_bytes` long, strong `etag`."""

    size_bytes: int
    etag: str | None


class Journal:
    """The journal of one folder, locked against other processes while open.

    `is_locked` is False on file systems that have no locks.

    Raises:
        DestinationError: another process downloads into the folder, or it is not writable.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / JOURNAL_NAME
        self._write_lock = threading.Lock()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        with disk_errors(self._path):
            self._fd = os.open(self._path, flags, 0o666)
        try:
            self.is_locked = _lock(self._fd, directory)
        except DestinationError:
            os.close(self._fd)
            raise
        self._begun: dict[str, Begun] = {}
        self._finished: dict[str, Finished] = {}
        with disk_errors(self._path):
            self._load(self._path.read_bytes())

    def begun(self, name: str) -> Begun | None:
        return self._begun.get(name)

    def finished(self, name: str) -> Finished | None:
        return self._finished.get(name)

    def begin(self, name: str, begun: Begun) -> None:
        """Record, before the first byte is kept, which object `NAME.partial` comes from."""
        self._begun[name] = begun
        self._append({"begun": name, "size_bytes": begun.size_bytes, "etag": begun.etag})

    def finish(self, name: str, finished: Finished) -> None:
        """Record what `NAME` is, after it got its final name."""
        self._finished[name] = finished
        self._append(finished.line(name))

    def _append(self, line: dict[str, str | int | None]) -> None:
        with self._write_lock, disk_errors(self._path):
            os.write(self._fd, json.dumps(line).encode() + b"\n")
            os.fsync(self._fd)

    def _load(self, content: bytes) -> None:
        if content and not content.endswith(b"\n"):
            os.write(self._fd, b"\n")  # ends a line that a kill cut short
        for line in content.splitlines():
            self._learn(line)

    def _learn(self, line: bytes) -> None:
        fact = parse_line(line)
        match fact:
            case {"begun": str(name), "size_bytes": int(size), "etag": str() | None as etag}:
                self._begun[name] = Begun(size, etag)
        if finished := parse_finished(fact):
            self._finished[finished[0]] = finished[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        os.close(self._fd)


def _lock(fd: int, directory: Path) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DestinationError(
            f"{directory}: another download is writing to this folder",
            hint="wait for it, or choose another folder",
        ) from error
    except OSError as error:
        if error.errno in _NO_LOCKS_HERE:
            return False
        raise DestinationError(f"{directory}: cannot be locked: {error.strerror}") from error
    return True
