"""Reading the directory of a zip archive whose members are stored, not compressed.

`torch.save` writes such archives. Only what torch writes is accepted: members that tile the
file from its first byte to the directory, each told the same by its local header, its data
descriptor and the directory. Anything else that the zip format allows (compression,
encryption, overlaps, gaps, duplicates, comments, several disks) has no honest use here, is
read differently by different programs, and is refused with a `FormatError`.
Format: PKWARE APPNOTE 6.3, sections 4.3.7 to 4.3.16.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unshard.errors import FormatError
from unshard.formats.regular_file import open_regular, read_exactly
from unshard.formats.zip_end import find_directory

CENTRAL = struct.Struct("<4s6H3I5H2I")
LOCAL = struct.Struct("<4s5H3I2H")
DESCRIPTORS = {16: struct.Struct("<4s3I"), 24: struct.Struct("<4sI2Q")}
"""The data descriptor behind a member, by its length: with 32-bit and with 64-bit sizes."""

LIMIT_32 = 0xFFFFFFFF
MAX_NAME_BYTES = 1024
HAS_DESCRIPTOR = 0x0008
ALLOWED_FLAGS = HAS_DESCRIPTOR | 0x0800
"""Data descriptor (bit 3) and UTF-8 names (bit 11): the two that torch sets."""


@dataclass(frozen=True, slots=True)
class Member:
    """One stored member: its bytes lie at `[offset, offset + length)` of the archive."""

    name: str
    offset: int
    length: int
    crc32: int


@dataclass(slots=True)
class CentralEntry:
    """What the directory says of one member."""

    name: bytes
    shown: str
    flags: int
    length: int
    crc32: int
    header_offset: int


def read_zip_directory(path: str | Path) -> dict[str, Member]:
    """All members of the archive at `path` by name, in directory order. Reads headers only.

    Raises:
        FormatError: the file is not a zip archive of the accepted kind.
    """
    path = os.fspath(path)
    with open_regular(path) as descriptor:
        return zip_members(path, descriptor)


def zip_members(path: str, descriptor: int) -> dict[str, Member]:
    """The same, of the file that is open as `descriptor`."""
    directory, count, directory_offset = find_directory(path, descriptor)
    entries = list(entries_of(path, directory, count))
    located: dict[str, Member] = {}
    for member in _located(path, descriptor, entries, directory_offset):
        if member.name in located:
            raise FormatError(path, f"zip directory names {member.name!r} twice")
        located[member.name] = member
    return {entry.shown: located[entry.shown] for entry in entries}


def entries_of(path: str, directory: bytes, count: int) -> Iterator[CentralEntry]:
    """The `count` entries that the bytes of a directory hold."""
    at = 0
    for number in range(count):
        if at + CENTRAL.size > len(directory):
            raise FormatError(path, f"zip directory ends at entry {number} of {count}")
        fields = CENTRAL.unpack_from(directory, at)
        signature, _, _, flags, method, _, _, crc, packed, length = fields[:10]
        name_length, extra_length, comment_length, disk, _, _, header_offset = fields[10:]
        name_at = at + CENTRAL.size
        extra_at = name_at + name_length
        at = extra_at + extra_length + comment_length
        if signature != b"PK\x01\x02" or at > len(directory) or disk:
            raise FormatError(path, f"zip directory entry {number} is damaged")
        name = directory[name_at:extra_at]
        if LIMIT_32 in (length, packed, header_offset):
            extra = directory[extra_at : extra_at + extra_length]
            length, packed, header_offset = _widen(path, extra, length, packed, header_offset)
        if method != 0 or packed != length or flags & ~ALLOWED_FLAGS:
            raise FormatError(
                path, f"zip member {name[:80]!r} is compressed or encrypted, as torch never writes"
            )
        yield CentralEntry(name, _checked_name(path, name), flags, length, crc, header_offset)
    if at != len(directory):
        raise FormatError(path, "zip directory holds more than its stated entries")


def _widen(path: str, extra: bytes, *values: int) -> list[int]:
    """Replaces saturated 32-bit fields by those of the zip64 extra block, in its fixed order."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            count = min(size, len(extra) - at - 4) // 8
            wide = iter(struct.unpack_from(f"<{count}Q", extra, at + 4))
            found = [next(wide, -1) if value == LIMIT_32 else value for value in values]
            if -1 not in found:
                return found
        at += 4 + size
    raise FormatError(path, "zip64 extra block lacks a size that the entry needs")


def _checked_name(path: str, raw: bytes) -> str:
    if len(raw) > MAX_NAME_BYTES:
        raise FormatError(path, f"a zip member's name has {len(raw)} bytes")
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(path, f"zip member name {raw[:80]!r} is not UTF-8") from None
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
        raise FormatError(path, f"zip member name {name[:80]!r} leaves the archive")
    return name


def _located(
    path: str, descriptor: int, entries: list[CentralEntry], directory_offset: int
) -> Iterator[Member]:
    """Walks the file from member to member, which must tile it, in order of their bytes.

    One read per member: the data descriptor of one and the local header of the next adjoin.
    """
    end, before = 0, None
    ordered = sorted(entries, key=lambda entry: entry.header_offset)
    _fetch_headers(descriptor, ordered, directory_offset)
    for entry in ordered:
        gap = entry.header_offset - end
        if gap < 0 or entry.header_offset > directory_offset:
            raise FormatError(path, f"zip member {entry.shown!r} overlaps another one")
        _refuse_gap(path, before, gap)
        raw = read_exactly(path, descriptor, gap + LOCAL.size + len(entry.name), end)
        _check_descriptor(path, before, raw[:gap])
        offset = entry.header_offset + _local_length(path, descriptor, entry, raw, gap)
        end, before = offset + entry.length, entry
        if end > directory_offset:
            raise FormatError(path, f"zip member {entry.shown!r} reaches past the archive's data")
        yield Member(entry.shown, offset, entry.length, entry.crc32)
    gap = directory_offset - end
    _refuse_gap(path, before, gap)
    _check_descriptor(path, before, read_exactly(path, descriptor, gap, end))


def _fetch_headers(descriptor: int, entries: list[CentralEntry], directory_offset: int) -> None:
    """Asks for all of them at once, which a cold disk answers sooner than one by one."""
    for entry in entries:
        start = max(0, min(entry.header_offset, directory_offset) - max(DESCRIPTORS))
        length = max(DESCRIPTORS) + LOCAL.size + len(entry.name)
        os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_WILLNEED)


def _refuse_gap(path: str, before: CentralEntry | None, gap: int) -> None:
    if gap and (before is None or not before.flags & HAS_DESCRIPTOR or gap not in DESCRIPTORS):
        where = f"after zip member {before.shown!r}" if before else "at its beginning"
        raise FormatError(path, f"holds {gap} bytes {where} that belong to nothing")


def _check_descriptor(path: str, entry: CentralEntry | None, raw: bytes) -> None:
    if not raw or entry is None:
        return
    told = DESCRIPTORS[len(raw)].unpack(raw)
    if told != (b"PK\x07\x08", entry.crc32, entry.length, entry.length):
        raise FormatError(path, f"zip member {entry.shown!r} disagrees with its data descriptor")


def _local_length(path: str, descriptor: int, entry: CentralEntry, raw: bytes, at: int) -> int:
    """Length of the local header at `raw[at:]`, which must agree with the directory."""
    if not raw.startswith(b"PK\x03\x04", at):
        raise FormatError(path, f"zip member {entry.shown!r} has no local header")
    _, _, flags, method, _, _, crc, packed, length, name_length, extra_length = LOCAL.unpack_from(
        raw, at
    )
    name_end = LOCAL.size + name_length
    if LIMIT_32 in (length, packed):
        extra_at = entry.header_offset + name_end
        extra = read_exactly(path, descriptor, extra_length, extra_at)
        length, packed = _widen(path, extra, length, packed)
    told = (crc, packed, length)
    # With a data descriptor, these fields are usually left 0 in front of the data.
    later = bool(flags & HAS_DESCRIPTOR) and told == (0, 0, 0)
    if (
        raw[at + LOCAL.size :] != entry.name
        or name_length != len(entry.name)
        or (method, flags) != (0, entry.flags)
        or not (later or told == (entry.crc32, entry.length, entry.length))
    ):
        raise FormatError(path, f"zip member {entry.shown!r} disagrees with its local header")
    return int(name_end + extra_length)
