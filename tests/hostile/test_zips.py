"""Archives that are read differently by different programs, or ask for too much."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from archives import Lies, archive
from opcodes import EMPTY
from refusal import Refusal

from unshard.formats.torch_zip import read_torch_file
from unshard.formats.zip_directory import read_zip_directory

X = "a/data/0"
DATA = b"x" * 100
PLAIN = {"flags": 0x0800, "crc": zlib.crc32(DATA), "packed": 100, "length": 100}
"""A member without data descriptor, which local headers describe."""
SATURATED = 0xFFFFFFFF


def zip64(*values: int) -> bytes:
    return struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values)


def lie(**fields: Any) -> Lies:
    return Lies(central=fields)


def plain(local: dict[str, Any], **central: Any) -> Lies:
    return Lies(central=PLAIN | central, local=PLAIN | local, descriptor=b"")


MEMBERS: dict[str, tuple[Lies, str]] = {
    "encrypted": (lie(flags=0x0809), "compressed or encrypted"),
    "strong encryption": (lie(flags=0x0848), "compressed or encrypted"),
    "patch data": (lie(flags=0x0828), "compressed or encrypted"),
    "deflated": (lie(method=8), "compressed or encrypted"),
    "unknown method": (lie(method=0xFFFF), "compressed or encrypted"),
    "bomb: one byte of 4 GB": (lie(packed=1, length=SATURATED - 1), "compressed or encrypted"),
    "data past the end": (lie(packed=1 << 30, length=1 << 30), "reaches past"),
    "4 exabytes by zip64": (
        Lies(central={"packed": SATURATED, "length": SATURATED}, extra=zip64(1 << 62, 1 << 62)),
        "reaches past",
    ),
    "header elsewhere": (lie(offset=3), "overlaps"),
    "header in the directory": (lie(offset=400), "belong to nothing"),
    "header at 16 exabytes": (
        Lies(central={"offset": SATURATED}, extra=zip64(2**64 - 1)), "belong to nothing",
    ),
    "longer than its descriptor says": (lie(packed=101, length=101), "belong to nothing"),
    "shorter than its descriptor says": (lie(packed=84, length=84), "belong to nothing"),
    "a descriptor of another checksum": (lie(crc=7), "disagrees with its data descriptor"),
    "no descriptor": (Lies(descriptor=b"PK\x07\x08" + bytes(12)), "disagrees with its data"),
    "half a descriptor": (Lies(descriptor=b"PK\x07\x08"), "belong to nothing"),
    "no local header": (Lies(local={"signature": b"PK\3\5"}), "no local header"),
    "local name differs": (Lies(local_name=b"a/data/1"), "disagrees with its local"),
    "local name is longer": (Lies(local={"name_length": 9}), "disagrees with its local"),
    "local method differs": (Lies(local={"method": 8}), "disagrees with its local"),
    "local flags differ": (Lies(local={"flags": 0x0800}), "disagrees with its local"),
    "local size differs": (Lies(local={"length": 99}), "disagrees with its local"),
    "local size differs, no descriptor": (plain({"length": 99}), "disagrees with its local"),
    "local packed size differs": (plain({"packed": 99}), "disagrees with its local"),
    "local checksum differs": (plain({"crc": 7}), "disagrees with its local"),
    "local zip64 size differs": (
        Lies(PLAIN, PLAIN | {"length": SATURATED}, b"", local_extra=zip64(99)), "disagrees",
    ),
    "local zip64 size absent": (plain({"length": SATURATED}), "lacks a size"),
    "zip64 size absent": (lie(length=SATURATED), "lacks a size"),
    "zip64 block cut": (
        Lies({"length": SATURATED}, extra=struct.pack("<2HI", 1, 8, 100)), "lacks a size",
    ),
    "foreign bytes in front": (Lies(gap=b"MZ" + bytes(14)), "belong to nothing"),
    "name of two lines": (lie(name_length=0xFFFF), "damaged"),
    "on another disk": (lie(disk=1), "damaged"),
    "no directory entry": (lie(signature=b"PK\5\5"), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("attack", MEMBERS)
def test_member(tmp_path: Path, refused: Refusal, attack: str) -> None:
    lies, problem = MEMBERS[attack]
    path = archive(tmp_path / "a.pt", members={X: DATA, "a/version": b"3\n"}, lies={X: lies})
    with refused(path, problem):
        read_torch_file(path)


FAR = {"at": 2**64 - 1}
ENDS: dict[str, tuple[dict[str, Any], str]] = {
    "too many entries": ({"end": {"here": 9, "count": 9}}, "ends at entry"),
    "too few entries": ({"end": {"here": 1, "count": 1}}, "more than its stated"),
    "64 k entries": ({"end": {"here": 65535, "count": 65535}}, "too large"),
    "entries on another disk": ({"end": {"here": 0}}, "several disks"),
    "of another disk": ({"end": {"disk": 1}}, "several disks"),
    "directory outside": ({"end": {"offset": 1 << 31}}, "lies outside"),
    "directory of 4 GB": ({"end": {"length": SATURATED}}, "too large"),
    "directory too short": ({"end": {"length": 3}}, "lies outside"),
    "comment claimed": ({"end": {"comment_length": 7}}, "foreign bytes"),
    "comment": ({"end": {"comment_length": 7}, "after": b"comment"}, "foreign bytes"),
    "second archive behind": ({"after": EMPTY + b"PK\5\6" + bytes(18)}, "lies outside|foreign"),
    "bytes before the directory": ({"before": b"#!/bin/sh"}, "belong to nothing"),
    "zip64: 2^64 entries": ({"end64": {"here": 2**64 - 1, "count": 2**64 - 1}}, "disagree"),
    "zip64: 2^40 entries": (
        {"end": {"here": 65535, "count": 65535}, "end64": {"here": 1 << 40, "count": 1 << 40}},
        "too large",
    ),
    "zip64: directory elsewhere": ({"end64": {"offset": 0}}, "disagree"),
    "zip64: record elsewhere": ({"end64": FAR}, "points to no zip64"),
    "zip64: no record": ({"end64": {"signature": b"PK\6\5"}}, "points to no zip64"),
    "zip64: more behind the record": ({"end64": {"body": 2**64 - 1}}, "foreign bytes"),
    "zip64: another disk": ({"end64": {"disk": 1}}, "several disks"),
    "zip64: two disks": ({"end64": {"disks": 2}}, "several disks"),
}


@pytest.mark.parametrize("attack", ENDS)
def test_end(tmp_path: Path, refused: Refusal, attack: str) -> None:
    lies, problem = ENDS[attack]
    path = archive(tmp_path / "a.pt", members={X: DATA}, **lies)
    with refused(path, problem):
        read_torch_file(path)


@pytest.mark.parametrize(
    "name", ["../evil", "/evil", "a/../../evil", "a\\evil", "a/e\0vil", "a/.."]
)
def test_path_traversal(tmp_path: Path, refused: Refusal, name: str) -> None:
    path = archive(tmp_path / "a.pt", members={name: b"x"})
    with refused(path, "leaves the archive"):
        read_torch_file(path)


def test_name_of_64_kb(tmp_path: Path, refused: Refusal) -> None:
    path = archive(tmp_path / "a.pt", members={"a/" + "\N{SNOWMAN}" * 20_000: b"x"})
    with refused(path, "name has 60002 bytes"):
        read_torch_file(path)


def test_name_that_is_not_utf8(tmp_path: Path, refused: Refusal) -> None:
    path = archive(tmp_path / "a.pt", members={"a/?": b"x"})
    path.write_bytes(path.read_bytes().replace(b"a/?", b"a/\xff"))
    with refused(path, "not UTF-8"):
        read_torch_file(path)


def test_two_members_of_one_name(tmp_path: Path, refused: Refusal) -> None:
    path = archive(tmp_path / "a.pt", members={"a/data.pkx": EMPTY})
    path.write_bytes(path.read_bytes().replace(b"data.pkx", b"data.pkl"))
    with refused(path, "twice"):
        read_torch_file(path)


def test_many_entries_for_the_same_bytes(tmp_path: Path, refused: Refusal) -> None:
    """A quine-like bomb: kilobytes that unpack to gigabytes."""
    names = [f"a/data/{key}" for key in range(20_000)]
    same = {
        name: Lies(central={"offset": 0, "packed": 1 << 20, "length": 1 << 20}) for name in names
    }
    path = archive(tmp_path / "a.pt", members=dict.fromkeys(names, b""), lies=same)
    with refused(path, "overlaps|reaches past"):
        read_torch_file(path)


NOT_TORCH: dict[str, dict[str, bytes]] = {
    "two roots": {"b/data.pkl": EMPTY},
    "a file beside the root": {"x": b""},
    "big-endian": {"a/byteorder": b"big"},
    "byteorder of no length": {"a/byteorder": b""},
}


@pytest.mark.parametrize("attack", NOT_TORCH)
def test_not_written_by_torch(tmp_path: Path, refused: Refusal, attack: str) -> None:
    path = archive(tmp_path / "a.pt", members=NOT_TORCH[attack])
    with refused(path, "not one that torch.save wrote|big-endian"):
        read_torch_file(path)


def test_damaged_pickle(tmp_path: Path, refused: Refusal) -> None:
    lies = {"a/data.pkl": plain({"crc": 7, "packed": 4, "length": 4}, crc=7, packed=4, length=4)}
    path = archive(tmp_path / "a.pt", lies=lies)
    with refused(path, "CRC-32"):
        read_torch_file(path)


def test_what_is_accepted(tmp_path: Path) -> None:
    """Every lie above is one step from these."""
    wide = struct.pack("<4sI2Q", b"PK\7\x08", zlib.crc32(DATA), 100, 100)
    large = {"packed": SATURATED, "length": SATURATED}
    lies = {
        "a/data/1": plain({}),
        "a/data/2": Lies(descriptor=wide),
        "a/data/3": Lies(central=large, extra=zip64(100, 100), local_extra=b"FB\2\0ZZ"),
        "a/data/4": Lies(PLAIN, PLAIN | large, b"", local_extra=zip64(100, 100)),
    }
    path = archive(
        tmp_path / "a.pt", members={X: DATA, **dict.fromkeys(lies, DATA)}, lies=lies, end64={}
    )
    raw = path.read_bytes()
    for member in list(read_zip_directory(path).values())[1:]:
        assert raw[member.offset : member.offset + member.length] == DATA
        assert member.crc32 == zlib.crc32(DATA)
    assert read_torch_file(path).storages.keys() == {"0", "1", "2", "3", "4"}
