"""Finding the directory of a zip archive from the records at the file's end.

Exactly one place for each record: the end record is the file's last bytes, the zip64
records, if any, lie right before it, and the directory right before those. Readers that
search for them can be shown another directory.
"""

from __future__ import annotations

import os
import struct

from unshard.errors import FormatError
from unshard.formats.regular_file import read_exactly

END = struct.Struct("<4s4H2IH")
END64_LOCATOR = struct.Struct("<4sIQI")
END64 = struct.Struct("<4sQ2H2I4Q")
END64_BODY_BYTES = END64.size - 12
"""What the record says of its own length: all but its signature and that length."""

TAIL_BYTES = 16 << 10
"""Read at once from the file's end: holds the directory of most checkpoint files."""
MAX_DIRECTORY_BYTES = 8 << 20
MAX_MEMBERS = 30_000
"""Far more than the tensors of any model's file, and read within a second."""


def find_directory(path: str, descriptor: int) -> tuple[bytes, int, int]:
    """The central directory's bytes, how many entries it has, and its offset in the file.

    Raises:
        FormatError: the file is no zip archive, or its end is not as torch writes it.
    """
    size = os.fstat(descriptor).st_size
    tail_offset = max(0, size - TAIL_BYTES)
    tail = read_exactly(path, descriptor, size - tail_offset, tail_offset)
    end_at = len(tail) - END.size
    if end_at < 0 or not tail.startswith(b"PK\x05\x06", end_at):
        raise _no_end(path, descriptor, tail)
    count, length, offset, directory_end = _read_end(path, tail, end_at, tail_offset)
    if count > MAX_MEMBERS or length > MAX_DIRECTORY_BYTES:
        raise FormatError(path, f"its zip directory ({count} members, {length} bytes) is too large")
    if offset + length != directory_end:
        raise FormatError(
            path, f"zip directory of {length} bytes at {offset} lies outside its place"
        )
    if offset >= tail_offset:
        return tail[offset - tail_offset : directory_end - tail_offset], count, offset
    return read_exactly(path, descriptor, length, offset), count, offset


def _read_end(path: str, tail: bytes, end_at: int, tail_offset: int) -> tuple[int, int, int, int]:
    """Number of entries, length, offset and end of the central directory."""
    _, *disks, here, count, length, offset, comment_length = END.unpack_from(tail, end_at)
    if any(disks) or here != count or comment_length:
        raise FormatError(path, "zip end record speaks of several disks or foreign bytes")
    locator_at = end_at - END64_LOCATOR.size
    if locator_at < 0 or not tail.startswith(b"PK\x06\x07", locator_at):
        return count, length, offset, tail_offset + end_at
    wide = _read_end64(path, tail, locator_at, tail_offset)
    for short, long, limit in zip(
        (count, length, offset), wide, (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF), strict=False
    ):
        if short != limit and short != long:
            raise FormatError(path, "zip end record and zip64 end record disagree")
    return wide


def _read_end64(
    path: str, tail: bytes, locator_at: int, tail_offset: int
) -> tuple[int, int, int, int]:
    _, disk, end_offset, disks = END64_LOCATOR.unpack_from(tail, locator_at)
    at = locator_at - END64.size
    if at < 0 or end_offset != tail_offset + at or not tail.startswith(b"PK\x06\x06", at):
        raise FormatError(path, "zip64 locator points to no zip64 end record")
    _, body, _, _, *here, count_here, count, length, offset = END64.unpack_from(tail, at)
    if disk or disks > 1 or any(here) or count_here != count or body != END64_BODY_BYTES:
        raise FormatError(path, "zip64 end record speaks of several disks or foreign bytes")
    return count, length, offset, end_offset


def _no_end(path: str, descriptor: int, tail: bytes) -> FormatError:
    """Says in plain words what the file is instead of a zip archive."""
    head = os.pread(descriptor, 512, 0)
    again = "download it again"
    if not head:
        return FormatError(path, "is empty", hint=again)
    if head.startswith(b"PK") and b"PK\x05\x06" in tail:
        return FormatError(path, "zip end record is followed by foreign bytes")
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
    return FormatError(
        path,
        f"is {kind}, not a torch.save checkpoint",
        hint="name the folder of the checkpoint, or its .pt or .safetensors files",
    )
