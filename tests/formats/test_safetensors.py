"""Our reader and writer of safetensors headers against the reference library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from unshard.dtypes import FLOAT16, FLOAT32
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


def test_the_data_begins_at_a_multiple_of_8() -> None:
    for length in range(1, 20):
        header = safetensors_header([("x" * length, FLOAT16, (2,))], {})
        assert len(header) % 8 == 0
        assert len(header) == 8 + int.from_bytes(header[:8], "little")
