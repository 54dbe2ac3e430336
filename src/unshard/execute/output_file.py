"""One output file: invisible until it is whole, synced and renamed."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self

from unshard.errors import DestinationError, NoSpaceError, UnshardError
from unshard.formats.torch_zip_layout import descriptor, directory, lay_out, local_header
from unshard.plan.copy_plan import PlannedFile


def write_error(path: Path, error: OSError) -> UnshardError:
    """The error that a failed write to `path` means to the user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceError(
            f"{path}: no space left", hint="free some and run the same command again: it continues"
        )
    if isinstance(error, FileExistsError | NotADirectoryError):
        return DestinationError(f"{path}: is a file, not a folder")
    return DestinationError(f"{path}: cannot be written ({error.strerror})")


def partial_path(directory: Path, name: str) -> Path:
    """Where the file `name` grows until it is whole."""
    return directory / f".{name}.partial"


class OutputFile:
    """The file `directory/plan.name` being made, as `.NAME.partial` until `commit`.

    Several threads may write at once, to disjoint offsets.
    """

    def __init__(self, plan: PlannedFile, directory: Path) -> None:
        self._plan = plan
        self._path = directory / plan.name
        self._partial = partial_path(directory, plan.name)
        self._descriptor = -1

    def __enter__(self) -> Self:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._descriptor = os.open(self._partial, flags, 0o666)
            if self._plan.num_bytes:
                os.posix_fallocate(self._descriptor, 0, self._plan.num_bytes)
        except OSError as error:
            self._discard()
            raise write_error(self._path, error) from error
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._descriptor >= 0:
            self._discard()

    def _discard(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._partial.unlink(missing_ok=True)

    @property
    def needs_checksums(self) -> bool:
        """Whether `commit` uses the records' CRC-32s."""
        return self._plan.framing == "torch-zip"

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Writes all of `data` at `offset`.

        Raises:
            NoSpaceError, DestinationError: the system refuses.
        """
        view = memoryview(data)
        try:
            while view:
                count = os.pwrite(self._descriptor, view, offset)
                view, offset = view[count:], offset + count
        except OSError as error:
            raise write_error(self._path, error) from error

    def start_writeback(self, offset: int, num_bytes: int) -> None:
        """Asks the system to begin writing these bytes to the disk, so that the sync at the
        end has little left to wait for."""
        os.posix_fadvise(self._descriptor, offset, num_bytes, os.POSIX_FADV_DONTNEED)

    def commit(self, checksums: Mapping[str, int]) -> None:
        """Writes the framing around the records, syncs and gives the file its name.

        `checksums` are the CRC-32s of the records by name, for framings that need them.
        """
        if self.needs_checksums:
            self._write_zip_framing(checksums)
        try:
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
            self._partial.replace(self._path)
        except OSError as error:
            raise write_error(self._path, error) from error

    def _write_zip_framing(self, checksums: Mapping[str, int]) -> None:
        laid_out, _ = lay_out([(record.name, record.num_bytes) for record in self._plan.records])
        entries = [replace(entry, crc32=checksums[entry.name]) for entry in laid_out]
        for entry in entries:
            header = local_header(entry)
            self.write(header, entry.header_offset)
            self.write(descriptor(entry), entry.header_offset + len(header) + entry.num_bytes)
        last = entries[-1]
        end = last.header_offset + len(local_header(last)) + last.num_bytes + len(descriptor(last))
        self.write(directory(entries, end), end)
