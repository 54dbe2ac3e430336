"""One file: whole already, or fetched, verified and only then given its name."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

from unshard.download.disk import disk_errors
from unshard.download.journal import Journal
from unshard.download.partial import Partial
from unshard.download.session import Session
from unshard.download.transfer import Transfer
from unshard.errors import DestinationError, DigestError
from unshard.finished import Finished
from unshard.manifest import Digest, digest_file

DEFAULT_ALGORITHM = "md5"
"""What is computed, and remembered, for a file that no manifest knows."""


def is_remembered(journal: Journal, path: Path, digest: Digest | None) -> bool:
    """Whether the journal knows that `path` is whole and right, without reading it."""
    finished = journal.finished(path.name)
    if finished is None:
        return False
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    return (
        stat.S_ISREG(status.st_mode)
        and (status.st_size, status.st_mtime_ns) == (finished.size_bytes, finished.mtime_ns)
        and digest in (None, finished.digest)
    )


def check_same_weights(
    journal: Journal, directory: Path, names: Iterable[str], folder: str
) -> None:
    """Where no manifest tells weights apart, keep those of one release from passing for, or
    being written over by, those of another: every release names its first part alike.

    Raises:
        DestinationError: one of `names` in `directory` came from another folder of a URL.
    """
    for name in names:
        finished = journal.finished(name)
        if finished and finished.folder not in ("", folder) and (directory / name).exists():
            raise DestinationError(
                f"{directory / name}: is of other weights, from {finished.folder}",
                hint="choose another folder, or give the manifest of these weights",
            )


class FileDownload:
    """The download of `name`, whose bytes must hash to `digest` (None: nobody knows)."""

    def __init__(self, session: Session, name: str, digest: Digest | None) -> None:
        self.name = name
        self._session = session
        self._digest = digest
        self._path = session.directory / name

    def run(self) -> bool:
        """Make the file whole. False if it was whole already, True if it had to be fetched.

        Raises:
            TransferError: the server does not give the file.
            DigestError: it gave, twice, bytes that are not the manifest's.
            LinkRefusedError, NoSpaceError, DestinationError: no other file will do better.
            CancelledError: the session was stopped.
        """
        if self._is_whole():
            return False
        algorithm = self._digest.algorithm if self._digest else DEFAULT_ALGORITHM
        with Partial(self._session.directory, self.name, algorithm) as partial:
            transfer = Transfer(self._session, self.name, partial)
            transfer.resume()
            transfer.run()
            if self._is_wrong(partial.digest):
                transfer.restart(f"{self._mismatch(partial)}; fetching it again")
                transfer.run()
            if self._is_wrong(partial.digest):
                mismatch = self._mismatch(partial)
                transfer.restart("the second copy is wrong too; nothing of it is kept")
                raise DigestError(
                    f"{self.name}: {mismatch}", hint="is this the manifest of these weights?"
                )
            status = partial.publish()
            folder = self._session.link.current.folder
            finished = Finished(status.st_size, status.st_mtime_ns, partial.digest, folder)
        self._session.journal.finish(self.name, finished)
        return True

    def _is_whole(self) -> bool:
        """Whether a file with the final name is there and hashes to what it should."""
        with disk_errors(self._path):
            if self._path.is_symlink() or (self._path.exists() and not self._path.is_file()):
                raise DestinationError(
                    f"{self._path}: is a link or no file at all, and will not be written over"
                )
            if not self._path.exists():
                return False
            if self._digest is None:
                self._session.meter.note(f"{self.name}: not known to be whole; fetching it again")
                return False
            return self._hashes_to(self._digest)

    def _hashes_to(self, expected: Digest) -> bool:
        status = self._path.stat()
        self._session.meter.file_size(self.name, status.st_size)
        with self._session.checking(self.name) as advance:
            digest = digest_file(self._path, expected.algorithm, advance)
        if digest != expected:
            self._session.meter.advance(-status.st_size)
            self._session.meter.note(
                f"{self.name}: on the disk it has {digest}, the manifest says {expected}; "
                "fetching it again"
            )
            return False
        finished = Finished(status.st_size, status.st_mtime_ns, digest)
        self._session.journal.finish(self.name, finished)
        return True

    def _is_wrong(self, digest: Digest) -> bool:
        return self._digest not in (None, digest)

    def _mismatch(self, partial: Partial) -> str:
        return f"arrived with {partial.digest}, the manifest says {self._digest}"
