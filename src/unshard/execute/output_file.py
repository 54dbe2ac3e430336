"""One output file: invisible until it is whole, synced and renamed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from unshard.disk import sync_directory
from unshard.errors import DestinationError, NoSpaceError, UnshardError
from unshard.execute.checksums import crc32
from unshard.formats import serialization_id
from unshard.formats.torch_zip_layout import descriptor, directory, lay_out, local_header
from unshard.plan.copy_plan import PlannedFile


def write_error(path: str | Path, error: OSError) -> UnshardError:
    """The error that a failed write to `path` means to the user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceError(
            f"{path}: no space left", hint="free some and run the same command again: it continues"
        )
    if isinstance(error, FileExistsError | NotADirectoryError):
        return DestinationError(f"{path}: is a file, not a folder")
    return DestinationError(f"{path}: cannot be written ({error.strerror})")


def partial_path(folder: Path, name: str) -> Path:
    """Where the file `name` grows until it is whole."""
    return folder / f".{name}.partial"


def write_all(file: int, path: str | Path, data: bytes | memoryview, offset: int) -> None:
    """Writes all of `data` at `offset` of the descriptor `file`; `path` is for errors.

    Raises:
        NoSpaceError, DestinationError: the system refuses.
    """
    view = memoryview(data)
    try:
        while view:
            count = os.pwrite(file, view, offset)
            view, offset = view[count:], offset + count
    except OSError as error:
        raise write_error(path, error) from error


@contextmanager
def opened(path: Path, flags: int, named: Path | None = None) -> Iterator[int]:
    """A descriptor to read and write the file at `path` itself, no link's.

    Raises:
        NoSpaceError, DestinationError: the system refuses that, or what is done with it within;
            about `named`, where that is another.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o666)
        try:
            yield file
        finally:
            os.close(file)
    except OSError as error:
        raise write_error(named or path, error) from error


@contextmanager
def growing(path: Path) -> Iterator[int]:
    """A descriptor to write what the file at `path` will hold, at its partial path; that is
    removed where this fails.

    Raises:
        NoSpaceError, DestinationError: the system refuses.
    """
    partial = partial_path(path.parent, path.name)
    try:
        with opened(partial, os.O_CREAT | os.O_TRUNC, path) as file:
            yield file
    except UnshardError:
        partial.unlink(missing_ok=True)
        raise


def write_whole(file: int, path: Path, data: bytes) -> None:
    """Writes `data`, all that the `growing` file holds, and gives it its name; durably, so a
    kill or a full disk at any moment leaves what was at `path` before.

    Raises:
        NoSpaceError, DestinationError: the system refuses.
    """
    write_all(file, path, data, 0)
    os.fsync(file)
    partial_path(path.parent, path.name).replace(path)
    sync_directory(path.parent)


def create(plan: PlannedFile, folder: Path, *, reserve: bool) -> None:
    """Makes the partial file in its full length, with its space reserved on the disk or not.

    Raises:
        NoSpaceError, DestinationError: the system refuses.
    """
    with growing(folder / plan.name) as file:
        if reserve and plan.num_bytes:
            os.posix_fallocate(file, 0, plan.num_bytes)
        else:
            os.ftruncate(file, plan.num_bytes)


def commit(plan: PlannedFile, folder: Path, checksums: Mapping[str, int], *, sync: bool) -> None:
    """Writes what lies around the copied bytes and gives the file its name.

    `checksums` are the CRC-32s of the records by name, for framings that need them.

    Raises:
        NoSpaceError, DestinationError: the system refuses.
    """
    path = partial_path(folder, plan.name)
    with opened(path, 0, folder / plan.name) as file:
        for record in plan.records:
            write_all(file, path, record.literal, record.offset)
        if plan.framing == "torch-zip":
            identified = _write_serialization_id(file, path, plan, checksums)
            _write_zip_framing(file, path, plan, identified)
        if sync:
            os.fsync(file)
        path.replace(folder / plan.name)


def _write_serialization_id(
    file: int, path: Path, plan: PlannedFile, checksums: Mapping[str, int]
) -> Mapping[str, int]:
    """Fills in the record that follows from all others, in archives that have one; returns
    the checksums with its own."""
    *others, last = plan.records
    if not last.name.endswith(f"/{serialization_id.RECORD}"):
        return checksums
    root = last.name.removesuffix(serialization_id.RECORD)
    content = serialization_id.serialization_id(
        {record.name.removeprefix(root): checksums[record.name] for record in others}
    )
    write_all(file, path, content, last.offset)
    return {**checksums, last.name: crc32(content)}


def _write_zip_framing(
    file: int, path: Path, plan: PlannedFile, checksums: Mapping[str, int]
) -> None:
    laid_out, _ = lay_out([(record.name, record.num_bytes) for record in plan.records])
    entries = [replace(entry, crc32=checksums[entry.name]) for entry in laid_out]
    for entry in entries:
        header = local_header(entry)
        write_all(file, path, header, entry.header_offset)
        end = entry.header_offset + len(header) + entry.num_bytes
        write_all(file, path, descriptor(entry), end)
    last = entries[-1]
    end = last.header_offset + len(local_header(last)) + last.num_bytes + len(descriptor(last))
    write_all(file, path, directory(entries, end), end)
