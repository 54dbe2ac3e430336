"""Headers of safetensors files that lie, or ask for too much."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from refusal import Refusal

from unshard.formats.safetensors import read_safetensors


def entry(begin: Any, end: Any, shape: Any, dtype: Any = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def write(path: Path, header: bytes, data: bytes = b"", length: int | None = None) -> Path:
    size = len(header) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + header + data)
    return path


HEADERS: dict[str, tuple[dict[str, Any], str]] = {
    "overlap": ({"a": entry(0, 4, [4]), "b": entry(2, 4, [2])}, "overlaps"),
    "the same bytes": ({"a": entry(0, 4, [4]), "b": entry(0, 4, [4])}, "overlaps"),
    "gap": ({"a": entry(0, 2, [2]), "b": entry(3, 4, [1])}, "gap"),
    "gap in front": ({"a": entry(1, 4, [3])}, "gap"),
    "past the end": ({"a": entry(0, 9, [9])}, "describes"),
    "bytes left over": ({"a": entry(0, 2, [2])}, "describes"),
    "no tensors, but bytes": ({}, "describes"),
    "shape lies": ({"a": entry(0, 4, [5])}, "disagree"),
    "width lies": ({"a": entry(0, 4, [4], "F32")}, "disagree"),
    "negative size": ({"a": entry(0, 4, [-4])}, "disagree"),
    "two negative sizes": ({"a": entry(0, 4, [-2, -2])}, "disagree"),
    "negative offset": ({"a": entry(-4, 0, [4])}, "disagree"),
    "ends before it begins": ({"a": entry(4, 0, [4])}, "disagree"),
    "huge shape": ({"a": entry(0, 4, [1 << 62, 1 << 62])}, "disagree"),
    "shape that overflows to 4": ({"a": entry(0, 4, [1 << 62, 4, 1 << 62])}, "disagree"),
    "size of 65 bits": ({"a": entry(0, 4, [(1 << 64) + 4])}, "disagree"),
    "size of a thousand digits": ({"a": entry(0, 4, [10**1000])}, "disagree"),
    "offset of a thousand digits": ({"a": entry(10**1000, 10**1000 + 4, [4])}, "gap"),
    "65 dimensions": ({"a": entry(0, 1, [1] * 65)}, "disagree"),
    "bool as size": ({"a": entry(0, 1, [True])}, "disagree"),
    "bool as offset": ({"a": entry(False, 1, [1]), "b": entry(1, 4, [3])}, "malformed"),
    "float as size": ({"a": entry(0, 4, [4.0])}, "disagree"),
    "float as offset": ({"a": entry(0.0, 4.0, [4])}, "malformed"),
    "string as offset": ({"a": entry("0", "4", [4])}, "malformed"),
    "three offsets": ({"a": entry(0, 4, [4]) | {"data_offsets": [0, 2, 4]}}, "malformed"),
    "shape is no list": ({"a": entry(0, 4, 4)}, "malformed"),
    "shape of lists": ({"a": entry(0, 4, [[4]])}, "disagree"),
    "unknown dtype": ({"a": entry(0, 4, [4], "Q9")}, "unknown dtype Q9"),
    "dtype of a megabyte": ({"a": entry(0, 4, [4], "Q" * 1_000_000)}, "unknown dtype Q"),
    "dtype is no string": ({"a": entry(0, 4, [4], ["U8"])}, "malformed"),
    "no dtype": ({"a": {"shape": [4], "data_offsets": [0, 4]}}, "malformed"),
    "entry is a number": ({"a": 5}, "malformed"),
    "entry is null": ({"a": None}, "malformed"),
    "name of a megabyte": ({"a" * 1_000_000: entry(0, 4, [4])}, "1000000 characters"),
    "metadata is a list": ({"__metadata__": [], "a": entry(0, 4, [4])}, "no map of strings"),
    "metadata of numbers": ({"__metadata__": {"a": 1}, "a": entry(0, 4, [4])}, "map of strings"),
    "metadata is a tensor": ({"__metadata__": entry(0, 4, [4])}, "no map of strings"),
}


@pytest.mark.parametrize("attack", HEADERS)
def test_header(tmp_path: Path, refused: Refusal, attack: str) -> None:
    header, problem = HEADERS[attack]
    path = write(tmp_path / "m.safetensors", json.dumps(header).encode(), bytes(4))
    with refused(path, problem):
        read_safetensors(path)


SOUND = b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'
TEXTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a JSON object"),
    "spaces": (b" " * 64, "not a JSON object"),
    "cut": (SOUND[:-1], "not valid JSON"),
    "more behind": (SOUND + b"{}", "not valid JSON"),
    "zeros behind": (SOUND + bytes(8), "not valid JSON"),
    "spaces in front": (b"  " + SOUND, "not a JSON object"),
    "a list": (b"[1]", "not a JSON object"),
    "a number": (b"1", "not a JSON object"),
    "single quotes": (SOUND.replace(b'"', b"'"), "not valid JSON"),
    "UTF-16": (SOUND.decode().encode("utf-16"), "not a JSON object"),
    "byte order mark": (b"\xef\xbb\xbf" + SOUND, "not a JSON object"),
    "not UTF-8": (SOUND.replace(b"a", b"\xff", 1), "not valid JSON"),
    "surrogates in UTF-8": (SOUND.replace(b"a", b"\xed\xa0\x80", 1), "not valid JSON"),
    "line break in a name": (SOUND.replace(b'"a"', b'"a\n"'), "not valid JSON"),
    "NaN": (SOUND.replace(b"[4]", b"[NaN]"), "NaN"),
    "infinity": (SOUND.replace(b"[0,4]", b"[0,-Infinity]"), "-Infinity"),
    "number that overflows": (SOUND.replace(b"[4]", b"[4e999]"), "disagree"),
    "number of 5000 digits": (SOUND.replace(b"[4]", b"[%b]" % (b"9" * 5000)), "not valid JSON"),
    "tensor twice": (SOUND[:-1] + b"," + SOUND[1:], "twice"),
    "tensor twice, spelt apart": (
        SOUND[:-1] + b"," + SOUND[1:].replace(b"a", b"\\u0061", 1),
        "twice",
    ),
    "shape twice": (SOUND.replace(b'"shape"', b'"shape":[9],"shape"'), "twice"),
    "deep lists": (b'{"a":' + b"[" * 100_000, "not valid JSON"),
    "deep objects": (b'{"a":' * 100_000, "not valid JSON"),
}


@pytest.mark.parametrize("attack", TEXTS)
def test_text(tmp_path: Path, refused: Refusal, attack: str) -> None:
    header, problem = TEXTS[attack]
    path = write(tmp_path / "m.safetensors", header, bytes(4))
    with refused(path, problem):
        read_safetensors(path)


@pytest.mark.parametrize("length", [0, 1, 54, 2**31, 2**63, 2**64 - 1])
def test_header_length(tmp_path: Path, refused: Refusal, length: int) -> None:
    with refused(write(tmp_path / "m.safetensors", SOUND, bytes(4), length)):
        read_safetensors(tmp_path / "m.safetensors")


def test_what_is_accepted(tmp_path: Path) -> None:
    padded = SOUND[:-1] + b',"__metadata__":{"format":"pt"}}' + b" " * 9
    for header in (SOUND, padded):
        refs = read_safetensors(write(tmp_path / "m.safetensors", header, bytes(4)))
        assert refs["a"].ranges[0].offset == 8 + len(header)
