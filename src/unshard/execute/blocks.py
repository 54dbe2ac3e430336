"""A planned tensor as a stream of bytes, in order, through bounded memory.

Every sink reads this one stream: a file writer, a digest, a comparison, a live model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from unshard.errors import CheckpointError
from unshard.execute.reader import Reader
from unshard.plan.boxes import Box
from unshard.plan.lower import CopyItem, PlannedTensor
from unshard.tensors import Shape, TensorRef

BLOCK_BYTES = 1 << 20
"""Larger blocks fall out of the processor's cache and are slower."""

Elements = npt.NDArray[np.void]


class Buffers:
    """Reusable scratch memory of one thread; grows to the largest block asked for."""

    def __init__(self) -> None:
        self._memory: dict[str, bytearray] = {}

    def take(self, use: str, num_bytes: int) -> memoryview:
        """`num_bytes` of the memory kept for `use`; overwritten by the next call for it."""
        if len(self._memory.get(use, b"")) < num_bytes:
            self._memory[use] = bytearray(num_bytes)
        return memoryview(self._memory[use])[:num_bytes]


def stream(
    tensor: PlannedTensor, reader: Reader, buffers: Buffers, block_bytes: int = BLOCK_BYTES
) -> Iterator[memoryview]:
    """The tensor's bytes, row-major, in blocks of whole rows of about `block_bytes`.

    A block is valid until the next one is asked for.

    Raises:
        FormatError: a source file is shorter than its header said.
        CheckpointError: a replica differs from the tensor it should equal.
    """
    shape = tensor.shape or (1,)
    row_bytes = math.prod(shape[1:]) * tensor.dtype.itemsize_bytes
    rows_at_once = max(1, block_bytes // max(1, row_bytes))
    for start in range(0, shape[0] if row_bytes else 0, rows_at_once):
        rows = min(rows_at_once, shape[0] - start)
        block = buffers.take("block", rows * row_bytes)
        window = Box((start, *(0 for _ in shape[1:])), (rows, *shape[1:]))
        for item in tensor.items:
            _fill(block, window, _at_least_1d(item), tensor, reader, buffers)
        yield block


def _at_least_1d(item: CopyItem) -> CopyItem:
    if item.target_box.sizes:
        return item
    one = Box((0,), (1,))
    return CopyItem(one, item.source, one, item.replicas)


def _fill(
    block: memoryview,
    window: Box,
    item: CopyItem,
    tensor: PlannedTensor,
    reader: Reader,
    buffers: Buffers,
) -> None:
    """Copies what `item` contributes to the rows of `window` into `block`."""
    shared = window.overlap(item.target_box)
    if shared is None:
        return
    moved = shared.relative_to(item.target_box.offsets)
    source_start = tuple(a + b for a, b in zip(moved.offsets, item.source_box.offsets, strict=True))
    source = Box(source_start, shared.sizes)
    target = shared.relative_to(window.offsets)
    itemsize = tensor.dtype.itemsize_bytes
    if target.sizes[1:] == window.sizes[1:] == _shape(item.source)[1:]:
        row_bytes = len(block) // window.sizes[0]
        part = block[target.offsets[0] * row_bytes :][: target.sizes[0] * row_bytes]
        reader.read_into(item.source, source.offsets[0] * row_bytes, part)
        for replica in item.replicas:
            _compare(
                tensor, item.source, replica, source.offsets[0] * row_bytes, part, reader, buffers
            )
        return
    elements = _elements(block, window.sizes, itemsize)
    elements[_slices(target)] = _gather(item.source, source, itemsize, reader, buffers)


def _gather(ref: TensorRef, box: Box, itemsize: int, reader: Reader, buffers: Buffers) -> Elements:
    """The elements of `box` of a stored tensor, through a read of its whole rows."""
    columns = _shape(ref)[1:]
    row_bytes = math.prod(columns) * itemsize
    scratch = buffers.take("gather", box.sizes[0] * row_bytes)
    reader.read_into(ref, box.offsets[0] * row_bytes, scratch)
    rows = Box((0, *box.offsets[1:]), box.sizes)
    return _elements(scratch, (box.sizes[0], *columns), itemsize)[_slices(rows)]


def _compare(
    tensor: PlannedTensor,
    source: TensorRef,
    replica: TensorRef,
    start: int,
    expected: memoryview,
    reader: Reader,
    buffers: Buffers,
) -> None:
    found = buffers.take("replica", len(expected))
    reader.read_into(replica, start, found)
    if found != expected:
        raise CheckpointError(
            f"{tensor.name}: the copy in {replica.ranges[0].path} differs from the one in "
            f"{source.ranges[0].path}",
            hint="one of the two files is corrupt: `unshard verify` finds which",
        )


def _shape(ref: TensorRef) -> Shape:
    return ref.shape or (1,)


def _elements(memory: memoryview, shape: Shape, itemsize: int) -> Elements:
    """`memory` as opaque elements: moving them needs no knowledge of what they mean."""
    return np.frombuffer(memory, dtype=f"u{itemsize}").reshape(shape)


def _slices(box: Box) -> tuple[slice, ...]:
    return tuple(slice(start, end) for start, end in zip(box.offsets, box.ends, strict=True))
