"""Files are judged in batches, by the thread that called, while others bring more of them."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from queue import Empty

from unshard.digest import hash_files
from unshard.disk import sync_directory
from unshard.download.crew import Crew
from unshard.download.disk import disk_errors
from unshard.download.file import FileDownload
from unshard.download.session import Session
from unshard.download.tally import Tally
from unshard.errors import DigestError, PersonNeededError, UnshardError
from unshard.finished import Finished
from unshard.manifest import Digest

BATCH_FILES = 16
"""So many files wait for no more: there are as many lanes in a vector register."""
MOST_FILES = BATCH_FILES * (os.cpu_count() or 1)
"""More in one batch do not make it faster, and would be told of later."""
GATHER_S = 2.0
"""Seconds that a file which has arrived waits for others, to be hashed beside them."""

LOOK_S = 0.1
"""Seconds between looks at the rate, by which connections are added."""


class Checker:
    """Settles files: those that are right get their final names, those that are wrong are
    fetched again. `on_file` hears of every file that has its final name.
    """

    def __init__(
        self,
        session: Session,
        crew: Crew,
        tally: Tally,
        on_file: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._crew = crew
        self._tally = tally
        self._on_file = on_file
        self._clock = clock
        self._arrived: deque[FileDownload] = deque()
        self._since = 0.0

    def run(self, files: Iterable[FileDownload]) -> None:
        """Have `files` fetched, and settle all of them. Where that ends early, what has arrived
        is settled all the same.

        Raises:
            UnshardError: the error of a file that no other would survive, or of too many.
        """
        try:
            self._settle_all(files)
        except UnshardError as error:
            self._session.stop()
            self._crew.join()
            self._hear(0, is_over=True)
            while self._arrived:
                self._check_arrived()
            if isinstance(error, PersonNeededError):
                raise self._tally.with_what_is_left(error) from error
            raise

    def _settle_all(self, files: Iterable[FileDownload]) -> None:
        standing: deque[FileDownload] = deque()
        for file in files:
            if file.stands():
                standing.append(file)
            else:
                self._crew.add([file])
        while self._tally.num_open:
            wait_s = self._until_due_s(len(standing))
            if wait_s == 0:
                self._check_arrived()
            elif standing:
                self._check_standing(_take(standing))
                self._hear(0)
            else:
                self._hear(LOOK_S if wait_s is None else min(wait_s, LOOK_S))
            self._crew.adapt()

    def _until_due_s(self, num_standing: int) -> float | None:
        """Seconds until those that have arrived are checked, if no more come; None: there are
        none."""
        if not self._arrived:
            return None
        is_last = self._tally.num_open == len(self._arrived) + num_standing
        if is_last or len(self._arrived) >= BATCH_FILES:
            return 0
        return max(self._since + GATHER_S - self._clock(), 0)

    def _hear(self, wait_s: float, *, is_over: bool = False) -> None:
        """What has arrived meanwhile, or within `wait_s` seconds."""
        try:
            while True:
                outcome = self._crew.outcomes.get(timeout=wait_s)
                wait_s = 0
                if isinstance(outcome, FileDownload):
                    self._since = self._since if self._arrived else self._clock()
                    self._arrived.append(outcome)
                elif not is_over:  # else it ended the download as well, or was ended by it
                    raise outcome
        except Empty:
            pass

    def _check_arrived(self) -> None:
        files = _take(self._arrived)
        with self._session.meter.checking(map(_name, files), have_counted=True) as count:
            self._check(files, count)

    def _check_standing(self, files: Sequence[FileDownload]) -> None:
        meter = self._session.meter
        for file in files:
            with disk_errors(file.path):
                meter.file_size(file.name, file.path.stat().st_size)
        with (
            contextlib.suppress(CancelledError),  # by an error, which is heard of next
            meter.checking(map(_name, files)) as count,
        ):

            def advance(num_bytes: int) -> None:
                self._session.check()
                count(num_bytes)

            self._check(files, advance)

    def _check(self, files: Sequence[FileDownload], advance: Callable[[int], None]) -> None:
        with disk_errors(self._session.directory):
            statuses = {file: file.judged_path.stat() for file in files}
        digests = _digests(files, advance, self._session.meter.total_bytes)
        right = [file for file in files if file.is_right(digests[file])]
        self._publish({file: (statuses[file], digests[file]) for file in right})
        for file in files:
            if file not in right:
                self._reject(file, digests[file], statuses[file].st_size)

    def _publish(self, files: dict[FileDownload, tuple[os.stat_result, Digest]]) -> None:
        """Give files their final names, and only then have them remembered."""
        if not files:
            return
        for file in files:
            file.publish()
        with disk_errors(self._session.directory):
            sync_directory(self._session.directory)
        folder = self._session.link.current.folder
        self._session.journal.finish(
            {
                file.name: Finished.of(status, digest, folder if file.is_of_link else "")
                for file, (status, digest) in files.items()
            }
        )
        for file in files:
            self._tally.whole(file.name, was_fetched=file.has_arrived)
            self._tell(file.name)

    def _tell(self, name: str) -> None:
        """Whoever fails to listen hears no more."""
        on_file, self._on_file = self._on_file, _ignore
        on_file(name)
        self._on_file = on_file

    def _reject(self, file: FileDownload, digest: Digest, size_bytes: int) -> None:
        try:
            file.reject(digest, size_bytes)
        except DigestError as error:
            self._tally.fail(error)
            self._tally.check()
        else:
            self._crew.add([file])


def _ignore(_name: str) -> None:
    pass


def _name(file: FileDownload) -> str:
    return file.name


def _take(files: deque[FileDownload]) -> list[FileDownload]:
    """The next batch."""
    return [files.popleft() for _ in range(min(len(files), MOST_FILES))]


def _digests(
    files: Sequence[FileDownload], advance: Callable[[int], None], of_bytes: int
) -> dict[FileDownload, Digest]:
    by_path = {file.judged_path: file for file in files}
    digests: dict[FileDownload, Digest] = {}
    for algorithm in {file.algorithm for file in files}:
        paths: list[Path] = [path for path, f in by_path.items() if f.algorithm == algorithm]
        for path, value in hash_files(paths, algorithm, advance=advance, of_bytes=of_bytes):
            with disk_errors(path):
                if isinstance(value, OSError):
                    raise value
            digests[by_path[path]] = Digest(algorithm, value)
    return digests
