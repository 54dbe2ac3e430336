"""Every field of an archive's frame counts: one that says something else is refused."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from archives import Lies, archive
from test_zips import DATA, plain

from unshard.errors import FormatError
from unshard.formats.zip_directory import read_zip_directory

OF_NO_CONSEQUENCE = {
    b"PK\3\4": (4, 5, *range(10, 14)),
    b"PK\1\2": (*range(4, 8), *range(12, 16), *range(36, 42)),
    b"PK\6\6": range(12, 16),
}
"""By record: versions, times, and attributes of files."""


def ignored(raw: bytes) -> Iterator[int]:
    for signature, fields in OF_NO_CONSEQUENCE.items():
        at = raw.find(signature)
        while at >= 0:
            yield from (at + field for field in fields)
            at = raw.find(signature, at + 1)


def test_every_field_counts(tmp_path: Path) -> None:
    wide = struct.pack("<4sI2Q", b"PK\7\x08", zlib.crc32(DATA), len(DATA), len(DATA))
    lies = {"a/data/1": plain({}), "a/data/2": Lies(descriptor=wide)}
    names = ("a/data/0", *lies)
    path = archive(tmp_path / "a.pt", members=dict.fromkeys(names, DATA), lies=lies, end64={})
    raw = path.read_bytes()
    members = read_zip_directory(path)
    free = set(ignored(raw))
    for member in members.values():
        free |= set(range(member.offset, member.offset + member.length))
    unnoticed = set()
    with path.open("r+b", buffering=0) as file:
        for at in range(len(raw)):
            for bit in (2, 0x80):
                file.seek(at)
                file.write(bytes([raw[at] ^ bit]))
                try:
                    assert read_zip_directory(path) == members
                    unnoticed.add(at)
                except FormatError:
                    pass
            file.seek(at)
            file.write(raw[at : at + 1])
    assert unnoticed == free
