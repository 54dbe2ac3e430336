"""Reading the directory of a zip archive whose members are stored, not compressed.

`torch.save` writes such archives. Only what torch writes is accepted: anything else that
the zip format allows (compression, encryption, overlaps, duplicates, comments that hide a
second directory) has no honest use here and is refused with a `FormatError`.
Format: PKWARE APPNOTE 6.3, sections 4.3.7 to 4.3.16.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unshard.errors import FormatError

END = struct.Struct("<4s4H2IH")
END64_LOCATOR = struct.Struct("<4sIQI")
END64 = struct.Struct("<4sQ2H2I4Q")
CENTRAL = struct.Struct("<4s6H3I5H2I")
LOCAL = struct.Struct("<4s5H3I2H")

LIMIT_32 = 0xFFFFFFFF
LIMIT_16 = 0xFFFF
MAX_DIRECTORY_BYTES = 64 << 20
MAX_TAIL_BYTES = END.size + LIMIT_16
ALLOWED_FLAGS = 0x0808
"""Data descriptor (bit 3) and UTF-8 names (bit 11): the two that torch sets."""


@dataclass(frozen=True, slots=True)
class Member:
    """One stored member: its bytes lie at `[offset, offset + length)` of the archive."""

    name: str
    offset: int
    length: int
    crc32: int


@dataclass(frozen=True, slots=True)
class _CentralEntry:
    name: bytes
    length: int
    crc32: int
    header_offset: int


def read_zip_directory(path: str | Path) -> dict[str, Member]:
    """All members of the archive at `path` by name, in directory order. Reads headers only.

    Raises:
        FormatError: the file is not a zip archive of the accepted kind.
    """
    path = os.fspath(path)
    with Path(path).open("rb") as file:
        descriptor = file.fileno()
        size = os.fstat(descriptor).st_size
        count, offset, length = _find_directory(path, descriptor, size)
        directory = os.pread(descriptor, length, offset)
        members: dict[str, Member] = {}
        for entry in _entries(path, directory, count):
            member = _locate(path, descriptor, entry, offset)
            if member.name in members:
                raise FormatError(path, f"zip directory names {member.name!r} twice")
            members[member.name] = member
    _refuse_overlaps(path, members)
    return members


def _find_directory(path: str, descriptor: int, size: int) -> tuple[int, int, int]:
    """Number of entries, offset and length (bytes) of the central directory."""
    tail_offset = max(0, size - MAX_TAIL_BYTES)
    tail = os.pread(descriptor, size - tail_offset, tail_offset)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < END.size:
        raise _not_an_archive(path, descriptor)
    fields = END.unpack_from(tail, at)
    count, length, offset, comment_length = fields[4:8]
    if at + END.size + comment_length != len(tail):
        raise FormatError(path, "zip end record is followed by foreign bytes")
    end_offset = tail_offset + at
    locator_offset = end_offset - END64_LOCATOR.size
    locator = os.pread(descriptor, END64_LOCATOR.size, max(locator_offset, 0))
    if locator_offset >= 0 and locator.startswith(b"PK\x06\x07"):
        count, length, offset, end_offset = _read_end64(path, descriptor, locator)
    if length > MAX_DIRECTORY_BYTES or offset + length > end_offset:
        raise FormatError(path, f"zip directory of {length} bytes at {offset} lies outside")
    return count, offset, length


def _read_end64(path: str, descriptor: int, locator: bytes) -> tuple[int, int, int, int]:
    end_offset = END64_LOCATOR.unpack(locator)[2]
    record = os.pread(descriptor, END64.size, min(end_offset, (1 << 63) - 1))
    if len(record) != END64.size or not record.startswith(b"PK\x06\x06"):
        raise FormatError(path, "zip64 locator points to no zip64 end record")
    count, length, offset = END64.unpack(record)[7:10]
    return count, length, offset, end_offset


def _not_an_archive(path: str, descriptor: int) -> FormatError:
    """Says in plain words what the file is instead of a zip archive."""
    head = os.pread(descriptor, 512, 0)
    again = "download it again"
    if not head:
        return FormatError(path, "is empty", hint=again)
    if head.startswith(b"PK\x03\x04"):
        return FormatError(path, "is truncated: its zip directory is missing", hint=again)
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        return FormatError(
            path, "is a web page, not a checkpoint", hint="the link that it came from is wrong"
        )
    if head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04")):
        return FormatError(
            path,
            "is a legacy torch.save file (before torch 1.6), which is not supported",
            hint="load it in torch and save it again",
        )
    printable = sum(32 <= byte < 127 or byte in b"\t\r\n" for byte in head)
    kind = "a text file" if printable == len(head) else "no zip archive"
    return FormatError(path, f"is {kind}, not a torch.save checkpoint")


def _entries(path: str, directory: bytes, count: int) -> Iterator[_CentralEntry]:
    at = 0
    for number in range(count):
        if at + CENTRAL.size > len(directory):
            raise FormatError(path, f"zip directory ends at entry {number} of {count}")
        (signature, _, _, flags, method, _, _, crc, packed, length) = CENTRAL.unpack_from(
            directory, at
        )[:10]
        name_length, extra_length, comment_length = CENTRAL.unpack_from(directory, at)[10:13]
        header_offset = CENTRAL.unpack_from(directory, at)[16]
        end = at + CENTRAL.size + name_length + extra_length + comment_length
        if signature != b"PK\x01\x02" or end > len(directory):
            raise FormatError(path, f"zip directory entry {number} is damaged")
        name = directory[at + CENTRAL.size : at + CENTRAL.size + name_length]
        extra_at = at + CENTRAL.size + name_length
        extra = directory[extra_at : extra_at + extra_length]
        length, packed, header_offset = _widen(path, extra, length, packed, header_offset)
        if method != 0 or packed != length or flags & ~ALLOWED_FLAGS:
            raise FormatError(
                path, f"zip member {name!r} is compressed or encrypted, as torch never writes"
            )
        yield _CentralEntry(name, length, crc, header_offset)
        at = end
    if at != len(directory):
        raise FormatError(path, "zip directory holds more than its stated entries")


def _widen(
    path: str, extra: bytes, length: int, packed: int, header_offset: int
) -> tuple[int, int, int]:
    """Replaces saturated 32-bit fields by those of the zip64 extra block, in its fixed order."""
    values = [length, packed, header_offset]
    if LIMIT_32 not in values:
        return length, packed, header_offset
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            wide = iter(
                struct.unpack_from(f"<{min(size, len(extra) - at - 4) // 8}Q", extra, at + 4)
            )
            values = [next(wide, -1) if value == LIMIT_32 else value for value in values]
            break
        at += 4 + size
    if -1 in values or LIMIT_32 in values:
        raise FormatError(path, "zip64 extra block lacks a size that the entry needs")
    return values[0], values[1], values[2]


def _locate(path: str, descriptor: int, entry: _CentralEntry, directory_offset: int) -> Member:
    """Finds the member's data behind its local header, which must agree with the directory."""
    want = LOCAL.size + len(entry.name)
    header = os.pread(descriptor, want, min(entry.header_offset, (1 << 63) - 1))
    shown = entry.name.decode("utf-8", "replace")
    if len(header) != want or not header.startswith(b"PK\x03\x04"):
        raise FormatError(path, f"zip member {shown!r} has no local header")
    fields = LOCAL.unpack_from(header)
    method, name_length, extra_length = fields[3], fields[9], fields[10]
    if header[LOCAL.size :] != entry.name or name_length != len(entry.name) or method != 0:
        raise FormatError(path, f"zip member {shown!r} disagrees with its local header")
    offset = entry.header_offset + LOCAL.size + name_length + extra_length
    if offset + entry.length > directory_offset:
        raise FormatError(path, f"zip member {shown!r} reaches past the archive's data")
    return Member(_checked_name(path, entry.name), offset, entry.length, entry.crc32)


def _checked_name(path: str, raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(path, f"zip member name {raw!r} is not UTF-8") from None
    steps = name.split("/")
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in steps:
        raise FormatError(path, f"zip member name {name!r} leaves the archive")
    return name


def _refuse_overlaps(path: str, members: dict[str, Member]) -> None:
    end = 0
    for member in sorted(members.values(), key=lambda member: member.offset):
        if member.offset < end:
            raise FormatError(path, f"zip member {member.name!r} overlaps another one")
        end = member.offset + member.length
