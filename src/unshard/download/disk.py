"""The disk under a download: its errors in our words, and its space."""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from unshard.errors import DestinationError, NoSpaceError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the errors of the disk under `path` into ours.

    Raises:
        NoSpaceError: the disk or the quota is full.
        DestinationError: anything else.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise no_space(f"{path}: {error.strerror}") from error
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise DestinationError(f"{path}: is a file, not a folder") from error
        raise DestinationError(f"{path}: {error.strerror}") from error


def no_space(problem: str) -> NoSpaceError:
    return NoSpaceError(
        f"{problem}; what has arrived is kept",
        hint="make space and run the same command again: it continues from here",
    )


class Space:
    """What the files under way still need of the disk of `directory`. Safe from many threads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._missing: dict[str, Callable[[], int]] = {}

    def claim(self, name: str, missing: Callable[[], int]) -> None:
        """The file `name` needs as many bytes more as `missing` tells, now and later.

        Raises:
            NoSpaceError: there is not so much beside what the other files need.
        """
        with self._lock:
            self._missing.pop(name, None)
            others = sum(count() for count in self._missing.values())
            free_bytes = shutil.disk_usage(self._directory).free
            if missing() + others > free_bytes:
                beside = f", {len(self._missing)} other files {others}" if others else ""
                raise no_space(
                    f"{name}: needs {missing()} bytes{beside}, and {self._directory} "
                    f"has {free_bytes} free"
                )
            self._missing[name] = missing

    def release(self, name: str) -> None:
        """The file `name` needs nothing any more."""
        with self._lock:
            self._missing.pop(name, None)
