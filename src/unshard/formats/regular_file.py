"""Opening and reading a file that somebody else wrote, whatever lies at its path."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from unshard.errors import FormatError

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextmanager
def open_regular(path: str) -> Iterator[int]:
    """A descriptor of the regular file at `path` (symbolic links are followed).

    Never waits: opening a named pipe would, until someone writes into it.

    Raises:
        FormatError: it is a folder, a pipe, a socket or a device, or the system fails to open
            or to read it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise FormatError(path, f"cannot be opened: {error.strerror}") from None
    try:
        kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
        if kind != stat.S_IFREG:
            raise FormatError(path, f"is {KINDS.get(kind, 'no file')}, not a file")
        yield descriptor
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)


def read_exactly(path: str, descriptor: int, length: int, offset: int) -> bytes:
    """Bytes `[offset, offset + length)` of the open file at `path`.

    Raises:
        FormatError: the file ends before them.
    """
    piece = os.pread(descriptor, length, offset)
    if len(piece) < length:
        pieces = [piece]
        while pieces[-1]:  # one read may give less than was asked
            offset += len(pieces[-1])
            length -= len(pieces[-1])
            pieces.append(os.pread(descriptor, length, offset))
        if length:
            raise FormatError(path, f"ends at byte {offset}, {length} bytes too early")
        piece = b"".join(pieces)
    return piece
