"""Cutting references: which bytes of a stored tensor a part of it means."""

from __future__ import annotations

from collections.abc import Iterator

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


def slice_elements(ref: TensorRef, name: str, start: int, shape: Shape) -> TensorRef:
    """A tensor of `shape` whose elements begin at element `start` of `ref`."""
    part = TensorRef(name, ref.dtype, shape, ())
    size = ref.dtype.itemsize_bytes
    ranges = tuple(slice_ranges(ref.ranges, start * size, part.num_bytes))
    return TensorRef(name, ref.dtype, shape, ranges)


def concatenate(name: str, refs: list[TensorRef]) -> TensorRef:
    """One flat tensor of the elements of `refs` in order."""
    ranges = tuple(piece for ref in refs for piece in ref.ranges)
    return TensorRef(name, refs[0].dtype, (sum(ref.num_elements for ref in refs),), ranges)
