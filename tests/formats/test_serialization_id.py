"""The hash of today's torch over an archive's records, against the installed torch."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from unshard.formats.serialization_id import (
    BUCKET_COUNTS,
    RECORD,
    iteration_order,
    serialization_id,
    string_hash,
)


@pytest.mark.parametrize("count", [0, 1, 9, 10, 60, 300])
def test_it_is_what_torch_writes(count: int, tmp_path: Path) -> None:
    """Numbers of records around those at which the C++ set grows."""
    torch.save([torch.full((1,), number) for number in range(count)], tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        checksums = {each.filename.split("/", 1)[1]: each.CRC for each in archive.infolist()}
        if checksums.pop(RECORD, None) is None:
            pytest.skip(f"torch {torch.__version__} writes none")
        assert serialization_id(checksums) == archive.read(f"a/{RECORD}")


def test_the_hash_takes_every_length_of_tail() -> None:
    hashes = {string_hash("x" * length) for length in range(20)}
    assert len(hashes) == 20
    assert all(0 <= value < 1 << 64 for value in hashes)


def test_the_order_has_every_name_once() -> None:
    names = [f"data/{number}" for number in range(BUCKET_COUNTS[3] + 5)]
    assert sorted(iteration_order(names)) == sorted(names)
