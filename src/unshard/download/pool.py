"""Many files at once, each whole and verified before it has its name."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from unshard.download.checker import Checker
from unshard.download.crew import Crew
from unshard.download.disk import Space, disk_errors
from unshard.download.file import FileDownload, check_same_weights, is_remembered
from unshard.download.journal import Journal
from unshard.download.link import Link
from unshard.download.meter import Meter
from unshard.download.ramp import USUAL_CONNECTIONS, Ramp
from unshard.download.rate import RateLimit
from unshard.download.retry import RetryBudget, RetryPolicy
from unshard.download.session import Session
from unshard.download.tally import Tally
from unshard.download.transport import Transport
from unshard.download.url import PresignedTemplate
from unshard.errors import UsageError
from unshard.interrupts import interrupts_told
from unshard.manifest import Digest, Manifest, file_name_problem
from unshard.progress import Progress, Silent

DEFAULT_MAX_CONNECTIONS = USUAL_CONNECTIONS
DEFAULT_STALL_TIMEOUT_S = 60.0


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
    its final name, also of those that were whole before, from the thread that called; an
    error of its own ends the download.

    Raises:
        UsageError: the URL cannot stand for one of the files, a name leaves the folder, or
            `max_connections` or `max_rate` is not positive.
        LinkRefusedError: the server refuses the link, which has no source of fresh ones or
            none that help; a later run with a fresh link continues at the byte.
        NoSpaceError, DestinationError: the disk is full, or the folder is in use, or it has
            files of another release that no manifest tells apart.
        TransferError, DigestError: files failed; all others were fetched first, unless
            `MAX_FAILURES_IN_A_ROW` failed or the budget of `retry` was spent.
        KeyboardInterrupt: as it came, after all threads ended.
    """
    started = time.monotonic()
    progress, retry = progress or Silent(), retry or RetryPolicy()
    directory = Path(directory)
    link = link if isinstance(link, Link) else Link(link)
    digests = _digests(files)
    link.expect(digests, same_folder=not isinstance(files, Manifest))
    _refuse_idle(max_connections, max_rate)
    rate = RateLimit(max_rate) if max_rate else None
    with (
        _claimed(directory, progress) as journal,
        Transport(max_connections=max_connections, stall_timeout_s=stall_timeout_s) as transport,
    ):
        if not isinstance(files, Manifest):
            check_same_weights(journal, directory, digests, link.current.folder)
        kept = {name for name, d in digests.items() if is_remembered(journal, directory / name, d)}
        num_asked, num_kept = len(digests) - len(kept), len(kept)
        meter = Meter(progress, num_asked, directory, lambda: link.final_end, num_whole=num_kept)
        budget, space = RetryBudget(retry), Space(directory)
        session = Session(link, directory, transport, journal, meter, retry, budget, space, rate)
        tally = _fetch(session, digests, kept, max_connections, on_file or _ignore)
    return DownloadReport(
        str(directory),
        tuple(name for name in digests if name in tally.fetched),
        tuple(name for name in digests if name not in tally.fetched),
        meter.received_bytes,
        time.monotonic() - started,
        isinstance(files, Manifest),
    )


def _refuse_idle(max_connections: int, max_rate: int | None) -> None:
    if max_connections < 1:
        raise UsageError(f"max_connections: {max_connections} would bring nothing")
    if max_rate is not None and max_rate < 1:
        raise UsageError(f"max_rate: {max_rate} bytes per second would never end")


@contextmanager
def _claimed(directory: Path, progress: Progress) -> Iterator[Journal]:
    """The journal of a folder that is this download's alone, and is made where there is none."""
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with Journal(directory) as journal:
        if not journal.is_locked:
            progress.note(f"{directory}: has no file locks; run one download here at a time")
        yield journal


def _digests(files: Manifest | Iterable[str]) -> dict[str, Digest | None]:
    """Every file to have with its digest; all names are checked before anything is done."""
    digests: dict[str, Digest | None] = (
        dict(files) if isinstance(files, Manifest) else dict.fromkeys(files)
    )
    for name in digests:
        if problem := file_name_problem(name):
            raise UsageError(f"cannot download a file of this name: {problem}")
    return digests


def _fetch(
    session: Session,
    digests: Mapping[str, Digest | None],
    kept: Container[str],
    max_connections: int,
    on_file: Callable[[str], None],
) -> Tally:
    """Have the files of `digests` fetched and checked, but for those that are `kept`."""
    asked = {name: digest for name, digest in digests.items() if name not in kept}
    for name in digests:
        if name in kept:
            on_file(name)
    files = [FileDownload(session, name, digest) for name, digest in asked.items()]
    tally = Tally(session.meter, len(digests), len(files))
    most = min(max_connections, session.rate.connections if session.rate else max_connections)
    try:
        with (
            Crew(session, tally, Ramp(most)) as crew,
            interrupts_told(crew.outcomes.put),
        ):
            Checker(session, crew, tally, on_file).run(files)
    except KeyboardInterrupt:
        session.meter.note("stopped; run the same command again: it continues from here")
        raise
    tally.raise_failures()
    return tally


def _ignore(_name: str) -> None:
    pass
