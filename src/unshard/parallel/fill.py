"""Filling one rank's tensors with its slices of a checkpoint, whatever its layout."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from unshard.errors import CheckpointError
from unshard.execute.model_sink import Rows, from_bits, put_rows
from unshard.execute.workers import DEFAULT_WORKERS
from unshard.library.read import read_elements
from unshard.placement import Placement, local_box
from unshard.progress import Progress, Silent
from unshard.tensors import LogicalTensor, Shape, TensorIndex

BLOCK_BYTES = 4 << 20
"""Rows read at once, by each thread."""

NO_GAP = 1
"""Of a row that is split no byte beyond the slice is read, however near the next row's lies: the
others would read it too."""


def fill_slices(
    index: TensorIndex,
    placements: Mapping[str, Placement],
    targets: Mapping[str, Tensor | Rows],
    rank: int,
    size: int,
    progress: Progress | None = None,
) -> None:
    """Copies rank `rank` of `size`'s slice of tensor `name` into `targets[name]`, in any dtype and
    on any device; all of it where the target has its whole shape.

    Memory beyond the targets is some blocks per thread. Replicas are not read.

    Raises:
        CheckpointError: the checkpoint has no such tensor, it has another shape, or what is
            split does not divide by `size`.
        FormatError: a file is shorter than its headers said.
    """
    progress = progress or Silent()
    boxes = {
        name: _box(index, name, placements[name], target, rank, size)
        for name, target in targets.items()
    }
    progress.start("load", sum(math.prod(map(len, boxes[n])) * _itemsize(index[n]) for n in boxes))
    with ThreadPoolExecutor(DEFAULT_WORKERS) as pool:
        fills = [
            pool.submit(_fill, index[name], box, targets[name], progress)
            for name, box in boxes.items()
        ]
        for fill in fills:
            fill.result()


def _box(
    index: TensorIndex, name: str, placement: Placement, target: Tensor | Rows, rank: int, size: int
) -> list[range]:
    stored, wanted = index[name].shape if name in index else None, tuple(target.shape)
    if stored == wanted:
        return [range(length) for length in stored]
    offsets: Shape = ()
    sizes: Shape = ()
    if stored is not None:
        offsets, sizes = local_box(name, stored, placement, rank, size)
    if sizes != wanted:
        raise CheckpointError(
            f"tensor {name}: rank {rank} of {size} needs {wanted}, the checkpoint has {stored}"
        )
    return [range(start, start + length) for start, length in zip(offsets, sizes, strict=True)]


def _fill(
    tensor: LogicalTensor, box: list[range], target: Tensor | Rows, progress: Progress
) -> None:
    with torch.inference_mode():
        for start, rows in _blocks(box, _itemsize(tensor)):
            bits = read_elements(tensor, [rows, *box[1:]], NO_GAP)
            put_rows(target, start, from_bits(bits, tensor.dtype))
            progress.advance(bits.nbytes)


def _blocks(box: list[range], itemsize: int) -> Iterator[tuple[int, range]]:
    """Runs of the box's rows, each with the number of its first row within the box."""
    row_bytes = math.prod(map(len, box[1:])) * itemsize
    step = max(1, BLOCK_BYTES // max(1, row_bytes))
    for start in range(0, len(box[0]), step):
        yield start, box[0][start : start + step]


def _itemsize(tensor: LogicalTensor) -> int:
    return tensor.dtype.itemsize_bytes
