"""Every limit is the last that is accepted: one step further is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import reduce
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from archives import archive
from opcodes import integer, pickle, short_text, text
from test_safetensors_headers import entry
from test_safetensors_headers import write as write_header

from unshard.errors import FormatError
from unshard.formats import (
    extent,
    json_object,
    pickle_keys,
    pickle_leaves,
    pickle_machine,
    safetensors,
    torch_zip,
    unpickle,
    zip_directory,
    zip_end,
)
from unshard.formats.extent import check_extent
from unshard.formats.json_object import read_json_object
from unshard.formats.records import as_shape
from unshard.formats.safetensors import read_safetensors
from unshard.formats.torch_zip import read_torch_file
from unshard.formats.unpickle import decode_pickle

Open = Callable[[Path, int], object]
"""Reads something of this size from a file to be written at the path."""


def decoded(data: bytes) -> Any:
    return decode_pickle(data, "x")


def nested(levels: int) -> list[Any]:
    return reduce(lambda inner, _: [inner], range(levels), [])


def one_tensor(name: str) -> dict[str, Any]:
    return {name: entry(0, 0, [0])}


def chained(inner: object, _: object) -> list[object]:
    return [inner]


def header(path: Path, content: dict[str, Any]) -> Path:
    return write_header(path, json.dumps(content).encode())


def counted(member: str, path: Path, length: int) -> object:
    return read_torch_file(archive(path, members={member: bytes(length)}))


def raw_bytes(length: int) -> bytes:
    return b"C" + bytes([length]) + bytes(length)


def written(path: Path, raw: bytes) -> Path:
    path.write_bytes(raw)
    return path


AS_SET: dict[str, tuple[int, Open]] = {
    "a tensor's name in safetensors": (
        safetensors.MAX_NAME_LENGTH,
        lambda path, n: read_safetensors(header(path, one_tensor("a" * n))),
    ),
    "a zip member's name": (
        zip_directory.MAX_NAME_BYTES, lambda path, n: counted("a/" + "b" * (n - 2), path, 1),
    ),
    "nesting": (
        extent.MAX_NESTING - 1, lambda path, n: check_extent(nested(n), str(path)),
    ),
    "nesting of what also lies flat": (
        extent.MAX_NESTING,
        lambda path, n: check_extent(list(accumulate(range(n), chained)), str(path)),
    ),
    "bytes of an integer": (
        pickle_leaves.MAX_INTEGER_BYTES,
        lambda _, n: decoded(pickle(b"\x8a" + bytes([n]) + b"\x01" * n)),
    ),
    "a string as a key": (
        pickle_keys.MAX_LENGTH, lambda _, n: decoded(pickle(b"}", text("x" * n), b"Ns")),
    ),
    "a string in a key": (
        pickle_keys.MAX_LENGTH, lambda _, n: decoded(pickle(b"}", text("x" * n), b"\x85Ns")),
    ),
    "parts of a key": (
        pickle_keys.MAX_PARTS, lambda _, n: decoded(pickle(b"}(", b"N" * n, b"tNs")),
    ),
    "an integer as a key": (
        pickle_keys.MAX_INTEGER, lambda _, n: decoded(pickle(b"}", integer(n), b"Ns")),
    ),
    "a negative integer as a key": (
        pickle_keys.MAX_INTEGER, lambda _, n: decoded(pickle(b"}", integer(-n), b"Ns")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", AS_SET)
def test_limit(tmp_path: Path, what: str) -> None:
    limit, read = AS_SET[what]
    read(tmp_path / "last", limit)
    with pytest.raises(FormatError):
        read(tmp_path / "beyond", limit + 1)


LOWERED: dict[str, tuple[Any, str, int, Open]] = {
    "values": (
        extent, "MAX_UNFOLDED", 50, lambda path, n: check_extent([None] * (n - 2), str(path)),
    ),
    "values behind another": (
        extent, "MAX_UNFOLDED", 50,
        lambda path, n: check_extent([[None] * 20, [], [0] * (n - 25)], str(path)),
    ),
    "text": (
        extent, "MAX_UNFOLDED", 50, lambda path, n: check_extent(["x" * 32 * (n - 3)], str(path)),
    ),
    "opcodes": (
        unpickle, "MAX_OPCODES", 9, lambda _, n: decoded(b"]" + b"\x94" * (n - 2) + b"."),
    ),
    "names": (
        pickle_machine, "MAX_GLOBALS", 3,
        lambda _, n: decoded(pickle(b"](", *(b"cfairseq\n%d\n" % k for k in range(n)), b"e")),
    ),
    "bytes of values": (
        pickle_machine, "MAX_VALUE_BYTES", 300,
        lambda _, n: decoded(raw_bytes(128) + b"0" + raw_bytes(n - 128) + b"."),
    ),
    "wide text": (
        pickle_leaves, "MAX_WIDE_TEXT_BYTES", 8,
        lambda _, n: decoded(pickle(text("\N{SNOWMAN}" + "x" * (n - 3)))),
    ),
    "a pickle's bytes": (
        torch_zip, "MAX_PICKLE_BYTES", 20,
        lambda path, n: read_torch_file(archive(path, pickle(short_text("x" * (n - 5))))),
    ),
    "a header's bytes": (
        safetensors, "MAX_HEADER_BYTES", 64,
        lambda path, n: read_safetensors(write_header(path, b"{}".ljust(n))),
    ),
    "a JSON file's bytes": (
        json_object, "MAX_JSON_BYTES", 32,
        lambda path, n: read_json_object(written(path, b'{"a": 1}'.ljust(n))),
    ),
    "members": (
        zip_end, "MAX_MEMBERS", 4,
        lambda path, n: read_torch_file(
            archive(path, members={f"a/data/{k}": b"x" for k in range(n - 1)})
        ),
    ),
    "a directory's bytes": (
        zip_end, "MAX_DIRECTORY_BYTES", 160,
        lambda path, n: counted("a/" + "b" * (n - 2 * 46 - 12), path, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", LOWERED)
def test_lowered_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """The same of limits that it would take long to reach."""
    module, name, limit, read = LOWERED[what]
    monkeypatch.setattr(module, name, limit)
    read(tmp_path / "last", limit)
    with pytest.raises(FormatError):
        read(tmp_path / "beyond", limit + 1)


def test_shapes() -> None:
    longest = [2] * 64
    assert as_shape(longest) == tuple(longest)
    assert as_shape([*longest, 2]) is None
    assert as_shape([0, 2**63 - 1]) == (0, 2**63 - 1)
    assert as_shape([2**63]) is as_shape([-1]) is as_shape([True]) is None


@pytest.mark.parametrize("wide", [None, {}], ids=["32 bits", "64 bits"])
def test_a_directory_is_the_same_however_much_is_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wide: dict[str, Any] | None
) -> None:
    path = archive(tmp_path / "a.pt", members={"a/data/0": b"x" * 9}, end64=wide)
    whole = read_torch_file(path)
    for tail_bytes in range(98 if wide is not None else 22, path.stat().st_size + 2):
        monkeypatch.setattr(zip_end, "TAIL_BYTES", tail_bytes)
        assert read_torch_file(path) == whole
