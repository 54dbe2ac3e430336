"""Cutting consecutive tensors out of pieces is slicing their concatenation."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unshard.dtypes import FLOAT16, UINT8
from unshard.index.slices import cut, slice_ranges
from unshard.tensors import ByteRange, TensorRef

LENGTHS = st.lists(st.integers(0, 9), min_size=1, max_size=12)


def positions(ranges: tuple[ByteRange, ...]) -> list[tuple[str, int]]:
    return [(piece.path, piece.offset + at) for piece in ranges for at in range(piece.length)]


@given(lengths=LENGTHS, data=st.data())
def test_tensors_are_slices_of_the_whole(lengths: list[int], data: st.DataObject) -> None:
    refs = [
        TensorRef("", UINT8, (length,), (ByteRange(f"file{number}", 100 * number, length),))
        for number, length in enumerate(lengths)
    ]
    ranges = tuple(piece for ref in refs for piece in ref.ranges)
    whole = positions(ranges)
    wanted = data.draw(st.lists(st.integers(0, 9), max_size=12))
    sizes = [size for at, size in enumerate(wanted) if sum(wanted[: at + 1]) <= len(whole)]
    at = 0
    for size, ref in zip(sizes, cut(refs, [("x", (size,)) for size in sizes]), strict=True):
        assert positions(ref.ranges) == whole[at : at + size]
        sliced = tuple(slice_ranges(ranges, at, size))
        assert positions(sliced) == whole[at : at + size]
        assert all(piece.length for piece in sliced)
        at += size


def test_elements_are_as_wide_as_their_dtype() -> None:
    [first, second] = cut(
        [TensorRef("flat", FLOAT16, (6,), (ByteRange("a", 10, 12),))], [("x", (1, 2)), ("y", (4,))]
    )
    assert first.ranges == (ByteRange("a", 10, 4),)
    assert second.ranges == (ByteRange("a", 14, 8),)
    assert math.prod(second.shape) == 4


def test_too_few_elements() -> None:
    ref = TensorRef("flat", UINT8, (3,), (ByteRange("a", 0, 3),))
    with pytest.raises(IndexError):
        list(cut([ref], [("x", (4,))]))
