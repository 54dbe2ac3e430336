"""From an element of a stored chunk to its place in the model and in a file."""

from __future__ import annotations

import numpy as np

from unshard.health.findings import Place
from unshard.index.slices import slice_ranges
from unshard.tensors import Chunk, Shape, TensorRef


def index_of(chunk: Chunk, element: int) -> Shape:
    """Index in the whole logical tensor of the chunk's row-major element `element`."""
    local = np.unravel_index(element, chunk.sizes)
    return tuple(int(at) + offset for at, offset in zip(local, chunk.offsets, strict=True))


def byte_of(ref: TensorRef, element: int) -> tuple[str, int]:
    """File and byte offset of a stored tensor's row-major element."""
    size = ref.dtype.itemsize_bytes
    first = next(slice_ranges(ref.ranges, element * size, size))
    return first.path, first.offset


def place_of(chunk: Chunk, element: int, value: float) -> Place:
    """Everything about one element."""
    path, byte_offset = byte_of(chunk.ref, element)
    return Place(path, byte_offset, index_of(chunk, element), value)
