"""Making an archive readable of which only the directory is there: headers from what it says.

The directory tells each member's length and where its local header begins; where its bytes
begin follows from the rule of torch's writer, which starts every member at a multiple of 64
bytes. What is drawn so must be compared with the archive itself once that is there.
"""

from __future__ import annotations

import os

from unshard.errors import FormatError
from unshard.formats.zip_directory import (
    DESCRIPTORS,
    HAS_DESCRIPTOR,
    LIMIT_32,
    LOCAL,
    CentralEntry,
    entries_of,
)
from unshard.formats.zip_end import find_directory

ALIGNMENT_BYTES = 64
"""Where torch's writer lets the bytes of a member begin (caffe2/serialize, kFieldAlignment)."""


def directory_offset(path: str, descriptor: int) -> int:
    """Where the directory of the archive begins; all from there to the end is needed.

    Raises:
        FormatError: the file's end is not that of an archive as torch writes it.
    """
    return find_directory(path, descriptor)[2]


def draw_headers(path: str, descriptor: int) -> None:
    """Writes the local header and data descriptor of every member that the directory names.

    Raises:
        FormatError: the members do not lie as torch's writer lays them.
    """
    directory, count, end = find_directory(path, descriptor)
    entries = sorted(entries_of(path, directory, count), key=lambda entry: entry.header_offset)
    ends = [*(entry.header_offset for entry in entries[1:]), end]
    for entry, following in zip(entries, ends, strict=True):
        gap = _gap(path, entry, following)
        offset = following - gap - entry.length
        os.pwrite(descriptor, _local_header(path, entry, offset), entry.header_offset)
        if gap:
            sizes = (entry.crc32, entry.length, entry.length)
            os.pwrite(descriptor, DESCRIPTORS[gap].pack(b"PK\x07\x08", *sizes), following - gap)


def _gap(path: str, entry: CentralEntry, following: int) -> int:
    """Length of the data descriptor between the member and what follows it."""
    if not entry.flags & HAS_DESCRIPTOR:
        return 0
    for gap in (0, *DESCRIPTORS):
        if (following - gap - entry.length) % ALIGNMENT_BYTES == 0:
            return gap
    raise FormatError(path, f"zip member {entry.shown!r} does not lie as torch's writer lays it")


def _local_header(path: str, entry: CentralEntry, offset: int) -> bytes:
    padding = offset - entry.header_offset - LOCAL.size - len(entry.name)
    told = (0, 0, 0)
    if not entry.flags & HAS_DESCRIPTOR:
        told = (entry.crc32, entry.length, entry.length)
    if not 0 <= padding <= 0xFFFF or told[1] >= LIMIT_32:
        raise FormatError(path, f"zip member {entry.shown!r} has an unusual local header")
    fields = (b"PK\x03\x04", 0, entry.flags, 0, 0, 0, *told, len(entry.name), padding)
    return LOCAL.pack(*fields) + entry.name
