"""How the elements of two tensors of one shape differ, counted block by block."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unshard.dtypes import DType
from unshard.execute.element_values import Bits, float64_values, widened
from unshard.tensors import Shape

Elements = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class ValueDifference:
    """Elements that differ, in numbers. `Δ` is the left value minus the right one."""

    num_elements: int
    """Of the whole tensor."""
    num_different: int
    """Between equal dtypes, elements of other bits; between two dtypes, of other values."""
    num_unequal: int
    """Those whose values differ too: +0 equals -0, and any NaN equals any other."""
    num_nan: int
    """Those that are NaN on exactly one side: their Δ is NaN and in no other number here."""
    first_index: Shape
    first_values: tuple[float, float]
    max_abs_delta: float
    """NaN when no differing pair is a pair of numbers, like the next two."""
    max_index: Shape | None
    mean_abs_delta: float
    """Over the differing pairs of numbers."""

    def __str__(self) -> str:
        left, right = self.first_values
        deltas = []
        if self.num_nan:
            deltas.append(f"max |Δ| NaN ({self.num_nan:,} NaN on one side only)")
        if self.max_index is not None:
            deltas.append(
                f"{'among numbers ' if self.num_nan else ''}max |Δ| {self.max_abs_delta:g} "
                f"at {self.max_index}, mean {self.mean_abs_delta:g}"
            )
        return (
            f"first at index {self.first_index}: {left} and {right}; "
            f"{self.num_different:,} of {self.num_elements:,} elements differ, "
            f"{', '.join(deltas) or 'all of them NaNs of other bits'}"
        )


class DifferenceCounter:
    """Takes in pairs of blocks of two tensors of `shape`, in order."""

    def __init__(self, shape: Shape, left: DType, right: DType) -> None:
        self._shape, self._left, self._right = shape, left, right
        self._elements = 0
        self._num_different = self._num_unequal = self._num_nan = self._num_deltas = 0
        self._first: tuple[int, float, float] | None = None
        self._max_delta, self._max_element, self._sum = -1.0, 0, 0.0

    def add(self, left: memoryview, right: memoryview) -> None:
        """Counts a pair of blocks of equally many elements."""
        mine = np.frombuffer(left, f"<u{self._left.itemsize_bytes}")
        theirs = np.frombuffer(right, f"<u{self._right.itemsize_bytes}")
        at = self._different(mine, theirs)
        if at.size:
            self._measure(
                at, float64_values(mine[at], self._left), float64_values(theirs[at], self._right)
            )
        self._elements += mine.size

    def _different(self, mine: Bits, theirs: Bits) -> npt.NDArray[np.intp]:
        """Which elements of a pair of blocks differ."""
        if self._left == self._right:
            is_same = np.array_equal(mine, theirs)
            return np.flatnonzero(() if is_same else mine != theirs)
        with np.errstate(invalid="ignore"):  # signalling NaNs
            left, right = widened(mine, self._left), widened(theirs, self._right)
            unequal = left != right
        if unequal.any():
            unequal &= ~(np.isnan(left) & np.isnan(right))
        return np.flatnonzero(unequal)

    def _measure(self, at: npt.NDArray[np.intp], left: Elements, right: Elements) -> None:
        """Elements `at` of the current block differ; these are their values."""
        if self._first is None:
            self._first = (self._elements + int(at[0]), float(left[0]), float(right[0]))
        with np.errstate(over="ignore", invalid="ignore"):  # Inf is an honest difference
            deltas = np.abs(left - right)
        is_nan_here, is_nan_there = np.isnan(left), np.isnan(right)
        is_number = ~(is_nan_here | is_nan_there)
        self._num_different += at.size
        self._num_nan += int(np.count_nonzero(is_nan_here != is_nan_there))
        self._num_unequal += int(np.count_nonzero((left != right) & is_number))
        if is_number.any():
            deltas, at = deltas[is_number], at[is_number]
            largest = int(deltas.argmax())
            if deltas[largest] > self._max_delta:
                self._max_delta = float(deltas[largest])
                self._max_element = self._elements + int(at[largest])
            self._sum += float(deltas.sum())
            self._num_deltas += deltas.size

    def result(self) -> ValueDifference | None:
        """What was found; None when nothing differs."""
        if self._first is None:
            return None
        element, mine, theirs = self._first
        some = self._num_deltas > 0
        return ValueDifference(
            num_elements=math.prod(self._shape),
            num_different=self._num_different,
            num_unequal=self._num_unequal + self._num_nan,
            num_nan=self._num_nan,
            first_index=self._index(element),
            first_values=(mine, theirs),
            max_abs_delta=self._max_delta if some else math.nan,
            max_index=self._index(self._max_element) if some else None,
            mean_abs_delta=self._sum / self._num_deltas if some else math.nan,
        )

    def _index(self, element: int) -> Shape:
        return tuple(int(at) for at in np.unravel_index(element, self._shape))
