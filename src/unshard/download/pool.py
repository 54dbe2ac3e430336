"""Many files at once: one thread and one connection each, all stopped together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from unshard.download.disk import disk_errors
from unshard.download.file import FileDownload, check_same_weights, is_remembered
from unshard.download.journal import Journal
from unshard.download.link import Link
from unshard.download.meter import Meter
from unshard.download.rate import RateLimit
from unshard.download.retry import RetryPolicy
from unshard.download.session import Session
from unshard.download.transport import Transport, UnreachableError
from unshard.download.url import PresignedTemplate
from unshard.errors import (
    DestinationError,
    DigestError,
    PersonNeededError,
    TransferError,
    UsageError,
)
from unshard.manifest import Digest, Manifest, file_name_problem
from unshard.progress import Progress, Silent

DEFAULT_MAX_CONNECTIONS = 8
DEFAULT_STALL_TIMEOUT_S = 60.0
MAX_FAILURES_IN_A_ROW = 8
"""So many files failing with none succeeding in between: it is not the files."""


@dataclass(frozen=True, slots=True)
class DownloadReport:
    """A finished download: every file is there in full."""

    directory: str
    fetched: tuple[str, ...]
    kept: tuple[str, ...]
    """Files that were whole before."""
    received_bytes: int
    elapsed_s: float
    is_verified: bool
    """Whether a manifest said what each file must hash to."""


def download(
    link: PresignedTemplate | Link,
    files: Manifest | Iterable[str],
    directory: str | Path,
    *,
    max_connections: int = DEFAULT_MAX_CONNECTIONS,
    progress: Progress | None = None,
    retry: RetryPolicy | None = None,
    stall_timeout_s: float = DEFAULT_STALL_TIMEOUT_S,
    max_rate: int | None = None,
    on_file: Callable[[str], None] | None = None,
) -> DownloadReport:
    """Make `directory` hold all `files` of `link`, continuing where a run before stopped.

    `files` is a manifest, whose digests every file must match, or bare file names. Files
    that fail by themselves do not stop the others. A file has its final name only when
    whole and verified; until then it is `NAME.partial`. `max_rate` bounds all
    connections together, in bytes per second. `on_file` hears of every file that has
    its final name, also of those that were whole before, from one of several threads; an
    error of its own ends the download.

    Raises:
        UsageError: the URL cannot stand for one of the files, a name leaves the folder, or
            `max_rate` is not positive.
        LinkRefusedError: the server refuses the link, which has no source of fresh ones or
            none that help; a later run with a fresh link continues at the byte.
        NoSpaceError, DestinationError: the disk is full, or the folder is in use, or it has
            files of another release that no manifest tells apart.
        TransferError, DigestError: files failed; all others were fetched first, unless
            `MAX_FAILURES_IN_A_ROW` failed.
        KeyboardInterrupt: as it came, after all threads ended.
    """
    started = time.monotonic()
    progress = progress or Silent()
    directory = Path(directory)
    link = link if isinstance(link, Link) else Link(link)
    digests = _digests(files)
    link.expect(digests, same_folder=not isinstance(files, Manifest))
    if max_rate is not None and max_rate < 1:
        raise UsageError(f"max_rate: {max_rate} bytes per second would never end")
    rate = RateLimit(max_rate) if max_rate else None
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with (
        Journal(directory) as journal,
        Transport(max_connections=max_connections, stall_timeout_s=stall_timeout_s) as transport,
    ):
        if not journal.is_locked:
            progress.note(f"{directory}: has no file locks; run one download here at a time")
        if not isinstance(files, Manifest):
            check_same_weights(journal, directory, digests, link.current.folder)
        rest = {n: d for n, d in digests.items() if not is_remembered(journal, directory / n, d)}
        num_whole = len(digests) - len(rest)
        meter = Meter(progress, len(rest), directory, lambda: link.final_end, num_whole=num_whole)
        session = Session(link, directory, transport, journal, meter, retry or RetryPolicy(), rate)
        pending = [FileDownload(session, name, digest) for name, digest in rest.items()]
        on_file = on_file or _ignore
        for name in digests:
            if name not in rest:
                on_file(name)
        fetched = _run(session, pending, len(digests), max_connections, on_file)
    return DownloadReport(
        str(directory),
        tuple(name for name in digests if name in fetched),
        tuple(name for name in digests if name not in fetched),
        meter.received_bytes,
        time.monotonic() - started,
        isinstance(files, Manifest),
    )


def _digests(files: Manifest | Iterable[str]) -> dict[str, Digest | None]:
    """Every file to have with its digest; all names are checked before anything is done."""
    digests: dict[str, Digest | None] = (
        dict(files) if isinstance(files, Manifest) else dict.fromkeys(files)
    )
    for name in digests:
        if problem := file_name_problem(name):
            raise UsageError(f"cannot download a file of this name: {problem}")
    return digests


def _run(
    session: Session,
    pending: Sequence[FileDownload],
    num_files: int,
    max_connections: int,
    on_file: Callable[[str], None],
) -> set[str]:
    """Run the `pending` ones of `num_files` files; the names of those that were fetched."""
    tally = _Tally(session.meter, num_files, num_files - len(pending))
    executor = ThreadPoolExecutor(max_connections, thread_name_prefix="download")
    try:
        names = {executor.submit(_run_one, session, file, on_file): file.name for file in pending}
        for future in as_completed(names):
            tally.settle(names[future], future)
    except KeyboardInterrupt:
        session.meter.note("stopped; run the same command again: it continues from here")
        raise
    finally:
        session.stop()
        executor.shutdown(cancel_futures=True)
    tally.raise_failures()
    return tally.fetched


def _run_one(session: Session, file: FileDownload, on_file: Callable[[str], None]) -> bool:
    """One file; what no other file would survive either stops all before another begins."""
    session.check()
    try:
        was_fetched = file.run()
    except (PersonNeededError, DestinationError, UnreachableError):
        session.stop()
        raise
    session.meter.file(file.name)
    on_file(file.name)
    return was_fetched


def _ignore(_name: str) -> None:
    pass


class _Tally:
    """What became of the files of one download."""

    def __init__(self, meter: Meter, num_files: int, num_whole: int) -> None:
        self.fetched: set[str] = set()
        self._meter = meter
        self._num_files = num_files
        self._num_whole = num_whole
        self._failures: list[TransferError | DigestError] = []
        self._in_a_row = 0

    def settle(self, name: str, future: Future[bool]) -> None:
        try:
            was_fetched = future.result()
        except CancelledError:
            return  # stopped by the failure of another file, which comes to settle too
        except UnreachableError:
            raise
        except (TransferError, DigestError) as error:
            self._fail(error)
            return
        except PersonNeededError as error:
            raise type(error)(
                f"{error.message}; {self._num_files - self._num_whole} of "
                f"{self._num_files} files are left",
                hint=error.hint,
            ) from error
        self._in_a_row = 0
        self._num_whole += 1
        if was_fetched:
            self.fetched.add(name)

    def raise_failures(self) -> None:
        """
        Raises:
            TransferError, DigestError: at least one file failed; all are named in notes.
        """
        if len(self._failures) == 1:
            raise self._failures[0]
        if self._failures:
            wrong = [f for f in self._failures if isinstance(f, DigestError)]
            first = (wrong or self._failures)[0]
            raise type(first)(
                f"{len(self._failures)} of {self._num_files} files failed; {first.message}",
                hint="run the same command again: it fetches only what is missing",
            )

    def _fail(self, error: TransferError | DigestError) -> None:
        self._failures.append(error)
        self._in_a_row += 1
        self._meter.note(error.message)
        if self._in_a_row >= MAX_FAILURES_IN_A_ROW:
            self.raise_failures()
