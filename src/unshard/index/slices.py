"""Cutting references: which bytes of a stored tensor a part of it means."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

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

    Raises IndexError when `refs` hold too few elements.
    """
    ranges = [piece for ref in refs for piece in ref.ranges]
    ends = list(accumulate(piece.length for piece in ranges))
    dtype, stop = refs[0].dtype, 0
    for name, shape in tensors:
        start, stop = stop, stop + math.prod(shape) * dtype.itemsize_bytes
        yield TensorRef(name, dtype, shape, _between(ranges, ends, start, stop))


def _between(
    ranges: Sequence[ByteRange], ends: Sequence[int], start: int, stop: int
) -> tuple[ByteRange, ...]:
    """Bytes `[start, stop)` of `ranges`, which end at `ends`, without a walk over all."""
    if start == stop:
        return ()
    first, last = bisect_right(ends, start), bisect_left(ends, stop)
    head, tail = ranges[first], ranges[last]
    skipped, left = start - (ends[first] - head.length), ends[last] - stop
    if first == last:
        return (ByteRange(head.path, head.offset + skipped, stop - start),)
    return (
        ByteRange(head.path, head.offset + skipped, head.length - skipped),
        *ranges[first + 1 : last],
        ByteRange(tail.path, tail.offset, tail.length - left),
    )


def concatenate(name: str, refs: Sequence[TensorRef]) -> TensorRef:
    """`refs`, equal but for their rows, as one tensor: the rows of each after those before."""
    ranges = tuple(piece for ref in refs for piece in ref.ranges)
    shape = (sum(ref.shape[0] for ref in refs), *refs[0].shape[1:])
    return TensorRef(name, refs[0].dtype, shape, ranges)
