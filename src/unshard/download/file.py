"""One file: fetched by one thread or several, judged, and only then given its name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from unshard.download.assembly import Assembly
from unshard.download.content import HEAD_BYTES, check_head
from unshard.download.disk import disk_errors
from unshard.download.journal import Journal
from unshard.download.retry import BYTES_TO_EARN
from unshard.download.session import Session
from unshard.download.transfer import Found, Transfer
from unshard.errors import DestinationError, DigestError, TransferError
from unshard.manifest import PARTIAL_SUFFIX, Digest

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
    return finished.holds_for(status) and digest in (None, finished.digest)


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
    """The download of `name`, whose bytes must hash to `digest` (None: nobody knows).

    One thread at a time fetches it; others may help meanwhile. Another secures it, and one
    more judges it.
    """

    def __init__(self, session: Session, name: str, digest: Digest | None) -> None:
        self.name = name
        self.path = session.directory / name
        self.partial_path = session.directory / (name + PARTIAL_SUFFIX)
        self.algorithm = digest.algorithm if digest else DEFAULT_ALGORITHM
        self._session = session
        self._digest = digest
        self._is_by_server = False
        """Whether that is only the server's word for what the file here may be."""
        self._transfer: Transfer | None = None
        self._unsynced: Assembly | None = None
        self._found: Found | None = None
        self._has_adopted = False
        self._was_wrong = False
        self.has_arrived = False

    @property
    def is_of_link(self) -> bool:
        """Whether the link gave the file, or said what it hashes to."""
        return self.has_arrived or self._is_by_server

    @property
    def judged_path(self) -> Path:
        """Where the bytes are that a digest is to judge."""
        return self.partial_path if self.has_arrived else self.path

    def stands(self) -> bool:
        """Whether a file that has the final name is there and can be judged by a digest.

        Raises:
            DestinationError: what is there must not be written over.
        """
        with disk_errors(self.path):
            if self.path.is_symlink() or (self.path.exists() and not self.path.is_file()):
                raise DestinationError(
                    f"{self.path}: is a link or no file at all, and will not be written over"
                )
            if not self.path.exists():
                return False
            if self._digest is None and (num_bytes := self.path.stat().st_size):
                self._found = Found(self.path, num_bytes, may_be_all=True)
        return self._digest is not None

    def fetch(self) -> None:
        """Have all bytes in `NAME.partial`, for `secure` to make them last; or else know, where
        no manifest tells, what the file here has to hash to.

        Raises:
            TransferError: the server does not give the file.
            LinkRefusedError, NoSpaceError, DestinationError: no other file will do better.
            CancelledError: the session was stopped.
        """
        self._session.check()
        assembly = Assembly(self._session.directory, self.name, self._session.journal)
        try:
            found, self._found = self._found, None
            transfer = Transfer(self._session, self.name, assembly, found)
            self._transfer = transfer
            transfer.resume()
            transfer.run()
            self._session.budget.earn(BYTES_TO_EARN)  # small files too show that it gets on
            if found and transfer.expected:
                self._expect(transfer.expected, found.num_bytes)
                return
            self._has_adopted = transfer.has_adopted
            self._unsynced = assembly
        finally:
            self._transfer = None
            self._session.space.release(self.name)
            if self._unsynced is None:
                assembly.close()

    def secure(self) -> None:
        """Make what was fetched safe from a power cut: only then has it arrived.

        Raises:
            NoSpaceError, DestinationError: the disk does not take it.
        """
        assembly, self._unsynced = self._unsynced, None
        if assembly:
            try:
                assembly.sync()
                self.has_arrived = True
            finally:
                assembly.close()

    def share_bytes(self) -> int:
        """What one more connection could bring of it; 0: nothing, now."""
        transfer = self._transfer
        return transfer.share_bytes() if transfer else 0

    def help(self) -> bool:
        """Bring a share of it; False: that makes no sense again. Raises as `Transfer.help`."""
        transfer = self._transfer
        return transfer.help() if transfer else True

    def _expect(self, digest: Digest, num_bytes: int) -> None:
        self._digest, self._is_by_server = digest, True
        self._session.meter.file_size(self.name, num_bytes)
        self._session.meter.advance(num_bytes)

    def is_right(self, digest: Digest) -> bool:
        return self._digest in (None, digest)

    def publish(self) -> None:
        """Give what has arrived its final name; durable once the folder is synced."""
        if self.has_arrived:
            with disk_errors(self.path):
                self.partial_path.replace(self.path)

    def reject(self, digest: Digest, size_bytes: int) -> None:
        """What is there hashes to `digest`, which is wrong, and has to be fetched.

        Raises:
            DigestError: it was, twice.
        """
        self._session.meter.advance(-size_bytes)
        if self._is_by_server:
            self._digest, self._is_by_server = None, False
            self._note("is not what the server has; fetching it again")
            return
        if not self.has_arrived:
            self._note(f"on the disk it has {digest}, the manifest says {self._digest}")
            self._found = self._find(size_bytes)
            return
        with disk_errors(self.partial_path):
            self.partial_path.unlink()
        mismatch = f"arrived with {digest}, the manifest says {self._digest}"
        if self._was_wrong:
            raise DigestError(
                f"{self.name}: {mismatch}; the second wrong copy, nothing of it is kept",
                hint="is this the manifest of these weights?",
            )
        self._note(f"{mismatch}; fetching it again")
        self._was_wrong, self.has_arrived = not self._has_adopted, False

    def _find(self, size_bytes: int) -> Found | None:
        """What another tool may have left half done: wget and the like write from the front."""
        if self.path.with_name(f"{self.name}.aria2").exists():
            self._note("aria2 left it with holes; fetching it anew")
            return None
        if is_remembered(self._session.journal, self.path, None):
            return None  # it is whole, and keeps its name until other weights replace it
        try:
            with disk_errors(self.path), self.path.open("rb") as file:
                check_head(self.name, file.read(HEAD_BYTES))
        except TransferError:
            return None  # it begins like nothing that was ever to be fetched
        return Found(self.path, size_bytes) if size_bytes else None

    def _note(self, line: str) -> None:
        self._session.meter.note(f"{self.name}: {line}")
