"""Numpy's basic indexing as pure integers: which indices of a tensor an expression means.

An axis is a `range` of the stored dimension's indices, or one index where an integer chose
it and the dimension is gone. Python's ranges slice exactly as numpy's arrays do.
"""

from __future__ import annotations

import contextlib
import operator
from types import EllipsisType
from typing import SupportsIndex

from unshard.tensors import Shape

Axis = range | int
Key = SupportsIndex | slice | EllipsisType
Index = Key | tuple[Key, ...]


def all_of(shape: Shape) -> tuple[Axis, ...]:
    """Every index of every dimension."""
    return tuple(range(size) for size in shape)


def select(axes: tuple[Axis, ...], index: Index) -> tuple[Axis, ...]:
    """What `index` leaves of `axes`.

    Raises:
        IndexError: an index is out of range, there are more than dimensions, or one is
            neither an integer, a slice nor `...`.
    """
    keys = iter(_one_per_dimension(axes, index))
    return tuple(axis if isinstance(axis, int) else _narrow(axis, next(keys)) for axis in axes)


def _one_per_dimension(axes: tuple[Axis, ...], index: Index) -> tuple[SupportsIndex | slice, ...]:
    """The keys of `index`, with the dimensions that it leaves out written out."""
    keys = index if isinstance(index, tuple) else (index,)
    given = [key for key in keys if not isinstance(key, EllipsisType)]
    dots = [at for at, key in enumerate(keys) if isinstance(key, EllipsisType)]
    ndim = sum(isinstance(axis, range) for axis in axes)
    if len(dots) > 1:
        raise IndexError("an index can have one ... only")
    if len(given) > ndim:
        raise IndexError(f"{len(given)} indices for a tensor of {ndim} dimensions")
    at = dots[0] if dots else len(given)
    return (*given[:at], *(slice(None),) * (ndim - len(given)), *given[at:])


def _narrow(axis: range, key: SupportsIndex | slice) -> Axis:
    if isinstance(key, slice):
        return axis[key]
    number = _integer(key)
    if not -len(axis) <= number < len(axis):
        raise IndexError(f"index {number} is out of range for a dimension of size {len(axis)}")
    return axis[number]


def _integer(key: SupportsIndex) -> int:
    with contextlib.suppress(TypeError):
        if not isinstance(key, bool):  # which numpy takes for a mask
            return operator.index(key)
    raise IndexError(
        f"a lazy tensor is indexed with integers, slices and ..., not {type(key).__name__}; "
        "np.stack([tensor[i] for i in rows]) reads chosen rows"
    )
