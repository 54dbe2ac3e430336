"""What each file of a checkpoint holds, from its index alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from unshard.index.checkpoint import Checkpoint
from unshard.index.grid import place_files
from unshard.tensors import TensorRef


@dataclass(frozen=True, slots=True)
class FileContents:
    """One file in numbers."""

    path: str
    num_bytes: int
    tp_rank: int | None
    """None where the layout knows no ranks."""
    fsdp_rank: int | None
    num_tensors: int
    """Logical tensors that have bytes in this file."""
    weight_bytes: int
    replica_bytes: int
    """Further copies of what other files hold too."""

    @property
    def other_bytes(self) -> int:
        """Headers, metadata, padding, optimizer state."""
        return self.num_bytes - self.weight_bytes - self.replica_bytes


def file_contents(checkpoint: Checkpoint) -> list[FileContents]:
    """Every file of `checkpoint`, in the order of its layout. Reads no file, only sizes."""
    files = checkpoint.layout.files
    tensors: dict[str, set[str]] = {str(path): set() for path in files}
    weights, replicas = dict.fromkeys(tensors, 0), dict.fromkeys(tensors, 0)
    for tensor in checkpoint.index.values():
        _count((chunk.ref for chunk in tensor.chunks), weights)
        _count(tensor.replicas, replicas)
        for piece in tensor.ranges():
            tensors[piece.path].add(tensor.name)
    ranks = _ranks(checkpoint)
    return [
        FileContents(
            str(path),
            path.stat().st_size,
            *ranks.get(path, (None, None)),
            len(tensors[str(path)]),
            weights[str(path)],
            replicas[str(path)],
        )
        for path in files
    ]


def _count(refs: Iterable[TensorRef], num_bytes: dict[str, int]) -> None:
    for ref in refs:
        for piece in ref.ranges:
            num_bytes[piece.path] += piece.length


def _ranks(checkpoint: Checkpoint) -> dict[Path, tuple[int | None, int | None]]:
    if checkpoint.layout.kind == "huggingface":
        return {}
    grid = place_files(checkpoint.source, checkpoint.layout.files)
    return {
        file.path: (file.tp_rank, file.fsdp_rank) for row in grid.values() for file in row.values()
    }
