"""What each file holds adds up to the whole model."""

from __future__ import annotations

from pathlib import Path

import pytest

from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint
from unshard.index.file_contents import file_contents
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    write_tiny_checkpoint(tmp_path / "raw")
    return open_checkpoint(tmp_path / "raw")


def test_bytes_add_up(checkpoint: Checkpoint) -> None:
    files = file_contents(checkpoint)
    chunks = [chunk.ref for each in checkpoint.index.values() for chunk in each.chunks]
    assert sum(each.weight_bytes for each in files) == sum(ref.num_bytes for ref in chunks)
    replicas = sum(ref.num_bytes for each in checkpoint.index.values() for ref in each.replicas)
    assert sum(each.replica_bytes for each in files) == replicas > 0
    for each in files:
        assert each.num_bytes == Path(each.path).stat().st_size
        assert each.other_bytes == each.num_bytes - each.weight_bytes - each.replica_bytes > 0


def test_ranks_and_tensors_of_each_file(checkpoint: Checkpoint) -> None:
    files = file_contents(checkpoint)
    assert [(each.tp_rank, each.fsdp_rank) for each in files] == [
        (part, shard) for part in range(2) for shard in range(3)
    ]
    for each in files:
        inside = [
            name
            for name, tensor in checkpoint.index.items()
            for ref in (*(chunk.ref for chunk in tensor.chunks), *tensor.replicas)
            if any(piece.path == each.path for piece in ref.ranges)
        ]
        assert each.num_tensors == len(set(inside))
