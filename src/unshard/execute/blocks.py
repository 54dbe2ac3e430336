"""A planned tensor as a stream of bytes, in order, through bounded memory.

Every sink reads this one stream: a file writer, a digest, a comparison, a live model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from unshard.errors import CheckpointError
from unshard.execute.reader import Reader
from unshard.plan.boxes import Box
from unshard.plan.lower import CopyItem, PlannedTensor
from unshard.tensors import LogicalTensor, Shape, TensorRef

BLOCK_BYTES = 1 << 20
"""Larger blocks fall out of the processor's cache and are slower."""

Elements = npt.NDArray[Any]


class Buffers:
    """Reusable scratch memory of one thread; grows to the largest block asked for."""

    def __init__(self) -> None:
        self._memory: dict[str, bytearray] = {}

    def take(self, use: str, num_bytes: int) -> memoryview:
        """`num_bytes` of the memory kept for `use`; overwritten by the next call for it."""
        if len(self._memory.get(use, b"")) < num_bytes:
            self._memory[use] = bytearray(num_bytes)
        return memoryview(self._memory[use])[:num_bytes]


RowsSeen = Callable[[TensorRef, int, memoryview], None]
"""Hears of the rows of stored tensors that are read: the tensor, the first row, the bytes."""


def stream(
    tensor: PlannedTensor,
    reader: Reader,
    buffers: Buffers,
    block_bytes: int = BLOCK_BYTES,
    *,
    rows: range | None = None,
    seen: RowsSeen | None = None,
) -> Iterator[memoryview]:
    """The bytes of the tensor (or of its `rows`), row-major, in blocks of whole rows of about
    `block_bytes`.

    A block is valid until the next one is asked for. `seen` hears of what is read, before it
    is put in place.

    Raises:
        FormatError: a source file is shorter than its header said.
        CheckpointError: a replica differs from the tensor it should equal.
    """
    shape = tensor.shape or (1,)
    row_bytes = math.prod(shape[1:]) * tensor.dtype.itemsize_bytes
    rows_at_once = max(1, block_bytes // max(1, row_bytes))
    wanted = range(shape[0]) if rows is None else rows
    items = [_at_least_1d(item) for item in tensor.items]
    for start in range(wanted.start, wanted.stop if row_bytes else wanted.start, rows_at_once):
        count = min(rows_at_once, wanted.stop - start)
        block = buffers.take("block", count * row_bytes)
        window = Box((start, *(0 for _ in shape[1:])), (count, *shape[1:]))
        for item in items:
            _fill(block, window, item, tensor, reader, buffers, seen)
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
    seen: RowsSeen | None,
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
        if seen is not None:
            seen(item.source, source.offsets[0], part)
        for replica in item.replicas:
            _compare(
                tensor, item.source, replica, source.offsets[0] * row_bytes, part, reader, buffers
            )
        return
    elements = _elements(block, window.sizes, itemsize)
    elements[_slices(target)] = _gather(item.source, source, itemsize, reader, buffers, seen)


def _gather(
    ref: TensorRef,
    box: Box,
    itemsize: int,
    reader: Reader,
    buffers: Buffers,
    seen: RowsSeen | None,
) -> Elements:
    """The elements of `box` of a stored tensor, through a read of its whole rows."""
    columns = _shape(ref)[1:]
    row_bytes = math.prod(columns) * itemsize
    scratch = buffers.take("gather", box.sizes[0] * row_bytes)
    reader.read_into(ref, box.offsets[0] * row_bytes, scratch)
    if seen is not None:
        seen(ref, box.offsets[0], scratch)
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


def elements_of(tensor: LogicalTensor, block: memoryview) -> Elements:
    """A block of the tensor's bytes as opaque elements, (rows, columns)."""
    columns = math.prod(tensor.shape[1:])
    return _elements(block, (-1, columns), tensor.dtype.itemsize_bytes)


def _elements(memory: memoryview, shape: Shape, itemsize: int) -> Elements:
    """`memory` as opaque elements: moving them needs no knowledge of what they mean."""
    return np.frombuffer(memory, dtype=f"u{itemsize}").reshape(shape)


def _slices(box: Box) -> tuple[slice, ...]:
    return tuple(slice(start, end) for start, end in zip(box.offsets, box.ends, strict=True))
