"""A logical tensor as a stream of bytes, in order, through bounded memory.

Every sink reads this one stream: a file writer, a digest, a comparison, a live model. A tensor
of any shape is treated as a matrix: its first dimension, and all others together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unshard.errors import CheckpointError
from unshard.execute.reader import Reader
from unshard.execute.workers import BLOCK_BYTES
from unshard.tensors import LogicalTensor, Shape, TensorRef

Elements = npt.NDArray[Any]

RowsSeen = Callable[[TensorRef, int, memoryview], None]
"""Hears of the rows of stored tensors that are read: the tensor, the first row, the bytes."""


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
    tensor: LogicalTensor,
    reader: Reader,
    buffers: Buffers,
    block_bytes: int = BLOCK_BYTES,
    *,
    rows: range | None = None,
    seen: RowsSeen | None = None,
    into: memoryview | None = None,
) -> Iterator[memoryview]:
    """The bytes of the tensor (or of its `rows`), row-major, in blocks of whole rows of about
    `block_bytes`.

    A block is valid until the next one is asked for; with `into`, memory of the caller for all
    of them end to end, it stays. `seen` hears of what is read, before it is put in place.

    Raises:
        FormatError: a source file is shorter than its header said.
        CheckpointError: a replica differs from the tensor it should equal.
    """
    num_rows, columns = rows_and_columns(tensor.shape)
    itemsize = tensor.dtype.itemsize_bytes
    strips = _strips(tensor)
    filler = _Filler(tensor, columns, reader, buffers, seen)
    wanted = range(num_rows) if rows is None else rows
    step = max(1, block_bytes // max(1, columns * itemsize))
    for start in range(wanted.start, wanted.stop if columns else wanted.start, step):
        stop = min(start + step, wanted.stop)
        length, at = (
            (stop - start) * columns * itemsize,
            (start - wanted.start) * columns * itemsize,
        )
        block = buffers.take("block", length) if into is None else into[at : at + length]
        for strip in strips:
            first, last = max(start, strip.row), min(stop, strip.row + strip.rows)
            if first < last:
                filler.fill(block, start, strip, first, last)
        yield block


@dataclass(frozen=True, slots=True)
class _Strip:
    """A chunk in matrix form: `rows` x `columns` elements at (`row`, `column`) of the tensor."""

    row: int
    column: int
    rows: int
    columns: int
    ref: TensorRef


def _strips(tensor: LogicalTensor) -> list[_Strip]:
    covered = sum(chunk.ref.num_elements for chunk in tensor.chunks)
    if covered != tensor.num_elements:
        raise CheckpointError(
            f"{tensor.name}: {covered} of its {tensor.num_elements} elements are stored"
        )
    return [
        _Strip(*_corner(chunk.offsets), *rows_and_columns(chunk.sizes), chunk.ref)
        for chunk in tensor.chunks
    ]


def _corner(offsets: Shape) -> tuple[int, int]:
    """Where a box begins in the matrix; beyond two dimensions, one cut in the first only."""
    row, *others = offsets or (0,)
    if len(others) > 1 and any(others):
        raise CheckpointError(f"cannot copy a box at {offsets} of more than two dimensions")
    return row, others[0] if others else 0


@dataclass(frozen=True, slots=True)
class _Filler:
    """Copies strips of stored tensors into blocks of the tensor's matrix."""

    tensor: LogicalTensor
    columns: int
    reader: Reader
    buffers: Buffers
    seen: RowsSeen | None

    def fill(self, block: memoryview, top: int, strip: _Strip, first: int, last: int) -> None:
        """Puts rows `[first, last)` of `strip` into `block`, which begins at row `top`."""
        itemsize = self.tensor.dtype.itemsize_bytes
        row_bytes = strip.columns * itemsize
        whole_rows = strip.columns == self.columns
        if whole_rows:
            target = block[(first - top) * row_bytes : (last - top) * row_bytes]
        else:
            target = self.buffers.take("gather", (last - first) * row_bytes)
        start = (first - strip.row) * row_bytes
        self.reader.read_into(strip.ref, start, target)
        if self.seen is not None:
            self.seen(strip.ref, first - strip.row, target)
        for replica in self.tensor.replicas:
            self.compare(strip.ref, replica, start, target)
        if not whole_rows:
            matrix = elements(block, self.columns, itemsize)
            matrix[first - top : last - top, strip.column : strip.column + strip.columns] = (
                elements(target, strip.columns, itemsize)
            )

    def compare(
        self, source: TensorRef, replica: TensorRef, start: int, expected: memoryview
    ) -> None:
        found = self.buffers.take("replica", len(expected))
        self.reader.read_into(replica, start, found)
        if not same_bytes(found, expected):
            raise CheckpointError(
                f"{self.tensor.name}: the copy in {replica.ranges[0].path} differs from the one in "
                f"{source.ranges[0].path}",
                hint="one of the two files is corrupt: `unshard verify` finds which",
            )


def same_bytes(left: memoryview, right: memoryview) -> bool:
    """Whether both hold the same bytes; memoryview's own comparison takes 16 ns a byte."""
    return np.array_equal(np.frombuffer(left, np.uint8), np.frombuffer(right, np.uint8))


def rows_and_columns(shape: Shape) -> tuple[int, int]:
    """Any shape as a matrix: its first dimension, and all others together."""
    return (shape[0], math.prod(shape[1:])) if shape else (1, 1)


def elements_of(tensor: LogicalTensor, block: memoryview) -> Elements:
    """A block of the tensor's rows as opaque elements, (rows, columns)."""
    return elements(block, rows_and_columns(tensor.shape)[1], tensor.dtype.itemsize_bytes)


def elements(memory: memoryview, columns: int, itemsize: int) -> Elements:
    """`memory` as opaque elements: moving them needs no knowledge of what they mean."""
    return np.frombuffer(memory, dtype=f"u{itemsize}").reshape(-1, columns)
