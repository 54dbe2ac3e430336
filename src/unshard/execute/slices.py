"""A tensor by the slices of its cut: digests and checksums that any layout can take.

A slice is one of `cut.count` equal parts along `cut.dim`, row-major. Slices of rows are
contiguous in a block of rows; slices of columns are gathered from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from unshard.execute.blocks import Buffers, rows_and_columns
from unshard.execute.checksums import crc32
from unshard.tensors import Cut, Shape

Block = npt.NDArray[Any]
"""Elements as unsigned integers of their width, (rows, columns)."""


class Slicer:
    """Takes blocks of a tensor of `shape` apart into pieces of its slices, in order.

    A piece is valid until the next block. Slices of columns are gathered in `buffers`.
    """

    def __init__(self, shape: Shape, cut: Cut, buffers: Buffers) -> None:
        self.rows, self.columns = rows_and_columns(shape)
        self.cut = cut
        self._height = self.rows // cut.count if cut.dim == 0 else self.rows
        self._width = self.columns // cut.count if cut.dim == 1 else self.columns
        self._buffers = buffers

    def pieces(self, row: int, column: int, block: Block) -> Iterator[tuple[int, memoryview]]:
        """(slice, its bytes in `block`) for the block whose first element is at (row, column)."""
        if self.cut.dim == 1 and self.cut.count > 1:
            return self._columns(column, block)
        return self._rows(row, block)

    def _rows(self, row: int, block: Block) -> Iterator[tuple[int, memoryview]]:
        end = row + len(block)
        start = row
        while start < end:
            number = start // self._height if self._height else 0
            stop = min(end, (number + 1) * self._height)
            yield number, block[start - row : stop - row].data.cast("B")
            start = stop

    def _columns(self, column: int, block: Block) -> Iterator[tuple[int, memoryview]]:
        count = block.shape[1] // self._width
        if count == 1:
            yield column // self._width, np.ascontiguousarray(block).data.cast("B")
            return
        memory = self._buffers.take("tiles", block.nbytes)
        tiles = np.frombuffer(memory, block.dtype).reshape(count, len(block), self._width)
        np.copyto(tiles, block.reshape(len(block), count, self._width).transpose(1, 0, 2))
        size = block.nbytes // count
        for number in range(count):
            yield column // self._width + number, memory[number * size : (number + 1) * size]


class SliceChecksums:
    """CRC-32 of each slice that was met, from blocks in ascending order of rows."""

    def __init__(self, slicer: Slicer) -> None:
        self._slicer = slicer
        self.crc32s: dict[int, int] = {}

    def add(self, row: int, column: int, block: Block) -> None:
        for number, piece in self._slicer.pieces(row, column, block):
            self.crc32s[number] = crc32(piece, self.crc32s.get(number, 0))


class SliceDigests:
    """BLAKE3 of each slice that was met, from blocks in ascending order of rows."""

    def __init__(self, slicer: Slicer) -> None:
        self._slicer = slicer
        self._hashers: dict[int, blake3] = {}

    def add(self, row: int, column: int, block: Block) -> None:
        for number, piece in self._slicer.pieces(row, column, block):
            hasher = self._hashers.get(number)
            if hasher is None:
                hasher = self._hashers[number] = blake3()
            hasher.update(piece)

    def digests(self) -> dict[int, str]:
        """Hex digest by slice."""
        return {number: hasher.hexdigest() for number, hasher in self._hashers.items()}
