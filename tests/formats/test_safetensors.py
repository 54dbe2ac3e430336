"""Our reader and writer of safetensors headers against the reference library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from unshard.dtypes import FLOAT16, FLOAT32
from unshard.errors import FormatError
from unshard.formats.safetensors import read_safetensors, safetensors_header


def test_reads_what_the_library_writes(tmp_path: Path, rng: np.random.Generator) -> None:
    arrays = {
        "a": rng.standard_normal((3, 4)).astype(np.float32),
        "b.c": rng.standard_normal(5).astype(np.float16),
        "scalar": np.array(7, np.int64),
    }
    path = tmp_path / "m.safetensors"
    save_file(arrays, path, metadata={"format": "np"})
    refs = read_safetensors(path)
    assert refs.keys() == arrays.keys()
    for name, values in arrays.items():
        [piece] = refs[name].ranges
        found = path.read_bytes()[piece.offset : piece.offset + piece.length]
        assert refs[name].shape == values.shape
        assert found == values.tobytes()


def test_the_library_reads_what_we_write(tmp_path: Path, rng: np.random.Generator) -> None:
    first = rng.standard_normal((2, 3)).astype(np.float16)
    second = rng.standard_normal(4).astype(np.float32)
    header = safetensors_header([("x", FLOAT16, (2, 3)), ("y", FLOAT32, (4,))], {"format": "pt"})
    assert len(header) % 8 == 0
    path = tmp_path / "m.safetensors"
    path.write_bytes(header + first.tobytes() + second.tobytes())
    loaded = load_file(path)
    np.testing.assert_array_equal(loaded["x"], first)
    np.testing.assert_array_equal(loaded["y"], second)


def tensor(begin: int, end: int, shape: list[Any], dtype: str = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


ATTACKS: dict[str, tuple[bytes, bytes, str]] = {
    "overlap": (
        json.dumps({"a": tensor(0, 4, [4]), "b": tensor(2, 6, [4])}).encode(), bytes(6), "overlaps",
    ),
    "gap": (
        json.dumps({"a": tensor(0, 4, [4]), "b": tensor(5, 6, [1])}).encode(), bytes(6), "gap",
    ),
    "past the end": (json.dumps({"a": tensor(0, 9, [9])}).encode(), bytes(4), "describes"),
    "bytes left over": (json.dumps({"a": tensor(0, 2, [2])}).encode(), bytes(4), "describes"),
    "shape lies": (json.dumps({"a": tensor(0, 4, [5])}).encode(), bytes(4), "disagree"),
    "negative shape": (json.dumps({"a": tensor(0, 4, [-4])}).encode(), bytes(4), "disagree"),
    "negative offset": (json.dumps({"a": tensor(-4, 0, [4])}).encode(), bytes(4), "disagree"),
    "huge shape": (
        json.dumps({"a": tensor(0, 4, [1 << 62, 1 << 62])}).encode(), bytes(4), "disagree",
    ),
    "unknown dtype": (json.dumps({"a": tensor(0, 4, [4], "Q9")}).encode(), bytes(4), "unknown"),
    "twice": (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{}}', bytes(1), "twice"),
    "no object": (b"[1]", b"", "not a JSON object"),
    "no json": (b"\xff\xfe{", b"", "not valid JSON"),
    "deep": (b"[" * 100_000, b"", "not valid JSON"),
    "malformed entry": (b'{"a": 5}', b"", "malformed"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_header_abuse(tmp_path: Path, attack: str) -> None:
    header, data, problem = ATTACKS[attack]
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    with pytest.raises(FormatError, match=problem) as caught:
        read_safetensors(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "raw", [b"", b"1234567", b"\xff" * 8 + b"{}", (10**9).to_bytes(8, "little")]
)
def test_header_length_abuse(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(raw)
    with pytest.raises(FormatError):
        read_safetensors(path)
