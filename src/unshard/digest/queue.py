"""The files that several workers hash, and what became of each."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from queue import SimpleQueue

Result = tuple[Path, str | OSError]


class Queue:
    """Paths on the way in, digests on the way out. Safe to use from many threads.

    `advance` hears of every read in bytes, from the workers' threads, and may raise to stop.
    """

    def __init__(self, paths: Iterable[Path], advance: Callable[[int], None]) -> None:
        self._paths = iter(paths)
        self._advance = advance
        self._lock = threading.Lock()
        self._results: SimpleQueue[Result | BaseException | None] = SimpleQueue()
        self._stopped = False

    def take(self) -> Path | None:
        """The next file, or None when there is none left."""
        with self._lock:
            return None if self._stopped else next(self._paths, None)

    def settle(self, path: Path, result: str | OSError) -> None:
        self._results.put((path, result))

    def advance(self, num_bytes: int) -> None:
        """
        Raises:
            StoppedError: nobody waits for the results any more.
        """
        if self._stopped:
            raise StoppedError
        self._advance(num_bytes)

    def stop(self) -> None:
        """End the workers soon."""
        self._stopped = True

    def run(self, worker: Callable[[], None]) -> None:
        """Run one worker in the current thread; `results` hears of its end."""
        try:
            worker()
        except StoppedError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again where results are read
            self._results.put(error)
            return
        self._results.put(None)

    def results(self, num_workers: int) -> Iterator[Result]:
        """Every file's digest or error, as they come, until all workers have ended.

        Raises:
            whatever a worker raised.
        """
        while num_workers:
            result = self._results.get()
            if isinstance(result, BaseException):
                raise result
            if result is None:
                num_workers -= 1
            else:
                yield result


class StoppedError(Exception):
    """Ends a worker; never leaves this package."""


def open_file(path: Path) -> int:
    """A descriptor to read the regular file `path` with; a pipe is refused, not waited for.

    Raises:
        OSError: no such file, not readable, or not a regular file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "is not a file", str(path))
