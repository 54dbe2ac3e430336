"""Writing zip archives that lie: every field of every record can be set at will.

Without lies, an archive is as torch writes it: stored members, each with a data descriptor.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opcodes import EMPTY

LOCAL_FIELDS = [
    "signature", "needed", "flags", "method", "time", "date", "crc", "packed", "length",
    "name_length", "extra_length",
]  # fmt: skip
CENTRAL_FIELDS = [
    "signature", "made", *LOCAL_FIELDS[1:], "comment_length", "disk", "internal", "external",
    "offset",
]  # fmt: skip
END_FIELDS = [
    "signature", "disk", "start", "here", "count", "length", "offset", "comment_length",
]  # fmt: skip
END64_FIELDS = ["signature", "body", "made", "needed", *END_FIELDS[1:-1]]


@dataclass
class Lies:
    """Fields of one member's records that say something else."""

    central: Mapping[str, Any] = field(default_factory=dict)
    local: Mapping[str, Any] = field(default_factory=dict)
    descriptor: bytes | None = None
    local_name: bytes | None = None
    extra: bytes = b""
    """Of the central entry."""
    local_extra: bytes = b""
    gap: bytes = b""
    """Foreign bytes in front of the member."""


def archive(
    path: Path,
    pickle: bytes = EMPTY,
    members: Mapping[str, bytes] | None = None,
    *,
    lies: Mapping[str, Lies] | None = None,
    end: Mapping[str, Any] | None = None,
    end64: Mapping[str, Any] | None = None,
    before: bytes = b"",
    after: bytes = b"",
) -> Path:
    """Writes `a/data.pkl` and `members` (names as they are) to `path`.

    `before` stands in front of the directory, `after` behind the end record. `end64` adds
    the zip64 end record and its locator.
    """
    out, directory = bytearray(), bytearray()
    everything = {"a/data.pkl": pickle, **(members or {})}
    for name, data in everything.items():
        lie = (lies or {}).get(name, Lies())
        directory += _member(out, name.encode(), data, lie)
    out += before
    truth = {"here": len(everything), "count": len(everything)}
    truth |= {"length": len(directory), "offset": len(out)}
    out += directory
    if end64 is not None:
        wide = {"signature": b"PK\6\6", "body": 44, **truth, **end64}
        at = len(out)
        out += _record("<4sQ2H2I4Q", END64_FIELDS, wide)
        out += struct.pack("<4sIQI", b"PK\6\7", 0, end64.get("at", at), end64.get("disks", 1))
    out += _record("<4s4H2IH", END_FIELDS, {"signature": b"PK\5\6", **truth, **(end or {})})
    path.write_bytes(out + after)
    return path


def _member(out: bytearray, name: bytes, data: bytes, lie: Lies) -> bytes:
    """Appends the member to `out`; returns its directory entry."""
    out += lie.gap
    crc = zlib.crc32(data)
    sizes = {"crc": crc, "packed": len(data), "length": len(data)}
    known = {"flags": 0x0808, "name_length": len(name)}
    offset = len(out)
    local = {"signature": b"PK\3\4", **known, "extra_length": len(lie.local_extra), **lie.local}
    out += _record("<4s5H3I2H", LOCAL_FIELDS, local)
    out += (name if lie.local_name is None else lie.local_name) + lie.local_extra + data
    told = struct.pack("<4s3I", b"PK\7\x08", crc, len(data), len(data))
    out += told if lie.descriptor is None else lie.descriptor
    central = {"signature": b"PK\1\2", **known, **sizes, "offset": offset}
    central |= {"extra_length": len(lie.extra), **lie.central}
    return _record("<4s6H3I5H2I", CENTRAL_FIELDS, central) + name + lie.extra


def _record(layout: str, fields: list[str], values: Mapping[str, Any]) -> bytes:
    return struct.pack(layout, *(values.get(field, 0) for field in fields))
