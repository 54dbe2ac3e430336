"""The tokenizer's files beside the weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from unshard.index.companions import NAMES, find_companions
from unshard.tensors import ByteRange


@pytest.mark.parametrize("which", [0, 1], ids=["metaseq's names", "Hugging Face's names"])
def test_found_by_either_name(tmp_path: Path, which: int) -> None:
    for length, names in enumerate(NAMES.values(), start=3):
        (tmp_path / names[which]).write_bytes(b"x" * length)
    assert find_companions(tmp_path) == {
        companion: ByteRange(str(tmp_path / names[which]), 0, length)
        for length, (companion, names) in enumerate(NAMES.items(), start=3)
    }


def test_metaseqs_come_first_and_folders_do_not_count(tmp_path: Path) -> None:
    theirs, ours = NAMES["merges"][0], NAMES["merges"][1]
    (tmp_path / theirs).write_bytes(b"four")
    (tmp_path / ours).write_bytes(b"fives")
    (tmp_path / NAMES["vocab"][0]).mkdir()
    assert find_companions(tmp_path) == {"merges": ByteRange(str(tmp_path / theirs), 0, 4)}
