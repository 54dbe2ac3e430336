"""Cutting references: which bytes of a stored tensor a part of it means."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from unshard.tensors import ByteRange, Shape, TensorRef


def slice_ranges(ranges: tuple[ByteRange, ...], start: int, length: int) -> Iterator[ByteRange]:
    """The ranges of bytes `[start, start + length)` of the concatenation of `ranges`."""
    for piece in ranges:
        if length <= 0:
            return
        if start < piece.length:
            taken = min(length, piece.length - start)
            yield ByteRange(piece.path, piece.offset + start, taken)
            start, length = 0, length - taken
        else:
            start -= piece.length


def cut(refs: Sequence[TensorRef], tensors: Iterable[tuple[str, Shape]]) -> Iterator[TensorRef]:
    """Tensors that lie one after the other in the elements of `refs` end to end.

    One pass over the ranges, however many tensors there are. Raises IndexError when `refs`
    hold too few elements.
    """
    ranges = [piece for ref in refs for piece in ref.ranges]
    dtype = refs[0].dtype
    number = used = 0
    for name, shape in tensors:
        missing = math.prod(shape) * dtype.itemsize_bytes
        taken = []
        while missing:
            piece = ranges[number]
            length = min(missing, piece.length - used)
            if length:
                taken.append(ByteRange(piece.path, piece.offset + used, length))
            missing -= length
            used += length
            if used == piece.length:
                number, used = number + 1, 0
        yield TensorRef(name, dtype, shape, tuple(taken))


def concatenate(name: str, refs: Sequence[TensorRef]) -> TensorRef:
    """`refs`, equal but for their rows, as one tensor: the rows of each after those before."""
    ranges = tuple(piece for ref in refs for piece in ref.ranges)
    shape = (sum(ref.shape[0] for ref in refs), *refs[0].shape[1:])
    return TensorRef(name, refs[0].dtype, shape, ranges)
