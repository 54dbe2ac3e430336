"""The bytes of a `torch.save` archive around its records.

Nothing in them depends on time or machine, so sizes and offsets are known before any data
is; only the checksums come later. Format: PKWARE APPNOTE 6.3; order and padding: torch's
PyTorchStreamWriter.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 64
"""Every record's data begins at a multiple of this many bytes."""
SATURATED = 0xFFFFFFFF
FLAGS = 0x0808
VERSION_RECORD = b"3\n"


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """One record as the central directory tells it."""

    name: str
    header_offset: int
    num_bytes: int
    crc32: int

    @property
    def is_far(self) -> bool:
        return self.header_offset >= SATURATED

    @property
    def is_big(self) -> bool:
        return self.num_bytes >= SATURATED


def lay_out(records: Sequence[tuple[str, int]]) -> tuple[list[ZipEntry], int]:
    """Where each record (name, bytes) of an archive lies, and how long the archive is.

    The checksums of the entries are still 0.
    """
    entries, at = [], 0
    for name, num_bytes in records:
        entry = ZipEntry(name, at, num_bytes, crc32=0)
        entries.append(entry)
        at = data_offset(entry) + num_bytes + len(descriptor(entry))
    return entries, at + len(directory(entries, at))


def data_offset(entry: ZipEntry) -> int:
    """Where the record's data begins."""
    return entry.header_offset + len(local_header(entry))


def local_header(entry: ZipEntry) -> bytes:
    """The header before a record's data, padded so that the data is aligned."""
    name = entry.name.encode()
    wide = b""
    if entry.is_big or entry.is_far:
        sizes = struct.pack("<2Q", entry.num_bytes, 0) if entry.is_big else b""
        offset = struct.pack("<Q", entry.header_offset) if entry.is_far else b""
        wide = struct.pack("<2H", 1, len(sizes + offset)) + sizes + offset
    start = entry.header_offset + 30 + len(name) + len(wide) + 4
    padding = -start % ALIGNMENT
    extra = wide + b"FB" + struct.pack("<H", padding) + b"Z" * padding
    fixed = struct.pack("<4s5H3I2H", b"PK\3\4", 0, FLAGS, 0, 0, 0, 0, 0, 0, len(name), len(extra))
    return fixed + name + extra


def descriptor(entry: ZipEntry) -> bytes:
    """The data descriptor behind a record's data."""
    layout = "<4sI2Q" if entry.is_big or entry.is_far else "<4s3I"
    return struct.pack(layout, b"PK\7\x08", entry.crc32, entry.num_bytes, entry.num_bytes)


def directory(entries: Sequence[ZipEntry], offset: int) -> bytes:
    """Everything from `offset` to the end: central directory and both end records."""
    central = b"".join(map(_central, entries))
    count, size, end = len(entries), len(central), offset + len(central)
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 0x031E, 45, 0, 0, count, count, size, offset)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, end, 1)
    few, near = min(count, 0xFFFF), min(offset, SATURATED)
    last = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, few, few, min(size, SATURATED), near, 0)
    return central + end64 + locator + last


def _central(entry: ZipEntry) -> bytes:
    name = entry.name.encode()
    wide = struct.pack("<2Q", entry.num_bytes, entry.num_bytes) if entry.is_big else b""
    wide += struct.pack("<Q", entry.header_offset) if entry.is_far else b""
    extra = struct.pack("<2H", 1, len(wide)) + wide if wide else b""
    size, offset = min(entry.num_bytes, SATURATED), min(entry.header_offset, SATURATED)
    fields = (0, 0, FLAGS, 0, 0, 0, entry.crc32, size, size, len(name), len(extra), 0, 0, 0, 0)
    return struct.pack("<4s6H3I5H2I", b"PK\1\2", *fields, offset) + name + extra
