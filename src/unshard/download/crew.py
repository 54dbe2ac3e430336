"""The threads of a download: each fetches a file, or helps with one where none is left."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import CancelledError
from queue import Full, Queue, SimpleQueue
from typing import Self

from unshard.download.file import FileDownload
from unshard.download.ramp import Ramp
from unshard.download.response import UnreachableError
from unshard.download.retry import BudgetSpentError
from unshard.download.session import Session
from unshard.download.tally import Tally
from unshard.errors import TransferError, UnshardError

_LOOK_AGAIN_S = 0.1
"""A file can be shared some time after it is begun, without anybody saying so."""

MOST_UNSYNCED = 8
"""So many files wait for the thread that syncs; whoever brings one more syncs it itself, so
that connections are not faster than the disk for long."""


class Crew:
    """Threads for the files that are added, in their order: as many as `ramp` says, and one
    that waits for the disk, so that a connection goes on with the next file at once.

    `outcomes` tells of every file that has arrived, and of errors that end the download; files
    that fail by themselves are counted in `tally` at once, for no thread to begin one too many.
    """

    def __init__(self, session: Session, tally: Tally, ramp: Ramp) -> None:
        self.outcomes: SimpleQueue[FileDownload | BaseException] = SimpleQueue()
        self._session = session
        self._tally = tally
        self._changed = threading.Condition()
        self._waiting: deque[FileDownload] = deque()
        self._under_way: list[FileDownload] = []
        self._is_over = False
        self._ramp = ramp
        self._threads: list[threading.Thread] = []
        self._unsynced: Queue[FileDownload | None] = Queue(MOST_UNSYNCED)
        self._syncer = threading.Thread(target=self._sync, name="download-sync")

    def add(self, files: Iterable[FileDownload]) -> None:
        """Have `files` fetched.

        Raises:
            UnshardError: the system gives no threads for that.
        """
        with self._changed:
            self._waiting.extend(files)
            self._changed.notify_all()
        self._grow(self._ramp.connections)

    def adapt(self) -> None:
        """Use more connections, if that seems worth it; to be called now and then. Raises as
        `add`."""
        with self._changed:
            is_short = bool(self._waiting) or any(map(FileDownload.share_bytes, self._under_way))
        self._grow(self._ramp.look(self._session.meter.received_bytes, is_short=is_short))

    def join(self) -> None:
        """Wait until no thread is at work; they end once the session is stopped, or no file is
        under way and none is added."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        if self._syncer.is_alive():
            self._unsynced.put(None)
            self._syncer.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._session.stop()
        self.join()

    def _grow(self, num_connections: int) -> None:
        try:
            while len(self._threads) < num_connections:
                if self._syncer.ident is None:
                    self._syncer.start()
                thread = threading.Thread(target=self._work, name=f"download-{len(self._threads)}")
                thread.start()
                self._threads.append(thread)
        except RuntimeError as error:
            raise UnshardError(
                f"{num_connections} connections: the system gives no more threads",
                hint="allow fewer --max-connections, or more processes (`ulimit -u`)",
            ) from error

    def _work(self) -> None:
        left: set[FileDownload] = set()
        try:
            while job := self._take(left):
                file, is_help = job
                if not is_help:
                    self._fetch(file)
                elif not file.help():
                    left.add(file)
        except CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again by whoever reads outcomes
            self._fail(error)

    def _sync(self) -> None:
        """After an error too: what has been brought is not lost with another file."""
        while file := self._unsynced.get():
            try:
                self._secure(file)
            except BaseException as error:  # noqa: BLE001 - as above
                self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self.outcomes.put(error)
        self._session.stop()

    def _take(self, left: set[FileDownload]) -> tuple[FileDownload, bool] | None:
        """The next file, and whether another thread has it and wants help; None at the end.
        Those in `left` are not helped.

        Raises:
            CancelledError: the session was stopped.
            TransferError, DigestError: so many files failed that the others will.
        """
        with self._changed:
            while True:
                self._session.check()
                self._tally.check()
                if self._waiting:
                    file = self._waiting.popleft()
                    self._under_way.append(file)
                    return file, False
                if self._is_over and not self._under_way:
                    return None
                candidates = [file for file in self._under_way if file not in left]
                neediest = max(candidates, key=FileDownload.share_bytes, default=None)
                if neediest and neediest.share_bytes():
                    return neediest, True
                self._changed.wait(_LOOK_AGAIN_S)

    def _fetch(self, file: FileDownload) -> None:
        try:
            file.fetch()
        except (UnreachableError, BudgetSpentError):
            raise
        except TransferError as problem:
            self._tally.fail(problem)  # other files may do better
            return
        finally:
            with self._changed:
                self._under_way.remove(file)
                self._changed.notify_all()
        self._tally.brought()
        try:
            self._unsynced.put_nowait(file)
        except Full:
            self._secure(file)

    def _secure(self, file: FileDownload) -> None:
        file.secure()
        self.outcomes.put(file)
