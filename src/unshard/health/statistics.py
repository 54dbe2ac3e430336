"""Robust statistics of one tensor, from the counts of its bit patterns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unshard.dtypes import DType
from unshard.health.float_formats import SIGN_BIN, BinTable, bin_table
from unshard.health.histogram import BitHistogram
from unshard.tensors import LogicalTensor, Shape

QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
TAIL_START = 1e-2
TAIL_END = 1e-4
MIN_TAIL_ELEMENTS = 32
"""The far tail point has this many elements beyond it: more than a few corrupt ones move."""

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TailPoint:
    """The share `probability` of the nonzero values has a magnitude beyond `magnitude`."""

    probability: float
    magnitude: float


@dataclass(frozen=True, slots=True)
class HistogramBar:
    """Values with 2^(half_octave / 2) <= |x| < 2^((half_octave + 1) / 2), by sign."""

    half_octave: int
    negative: int
    positive: int


@dataclass(frozen=True, slots=True)
class TensorStatistics:
    """One tensor in numbers. NaN and Inf are counted and then left out of all the others.

    Exact for fp16 and bf16. For fp32 (fp64), counts and extremes are exact, the rest comes
    from intervals of relative width 2^-7 (2^-4). A quantile p is the smallest value that at
    least the share p of all values does not exceed. Where nothing is finite, values are NaN.
    """

    name: str
    dtype: DType
    shape: Shape
    num_elements: int
    num_nan: int
    num_infinite: int
    num_zero: int
    num_subnormal: int
    minimum: float
    maximum: float
    absmax: float
    mean: float
    std: float
    median: float
    mad: float
    """Median absolute deviation from the median, without a factor."""
    quantiles: tuple[tuple[float, float], ...]
    """(p, value) for p in `QUANTILES`."""
    tail: tuple[TailPoint, TailPoint] | None
    """Two points of the magnitudes' upper tail; None for fewer than `MIN_TAIL_ELEMENTS` values
    other than zero."""
    magnitude_99: float
    """99 % of the nonzero values have a magnitude up to this one."""
    histogram: tuple[HistogramBar, ...]
    """Of the finite values other than zero, from small magnitudes to large."""


def summarize(tensor: LogicalTensor, histogram: BitHistogram) -> TensorStatistics:
    """The statistics of `tensor`, all of whose elements `histogram` has counted."""
    table = bin_table(histogram.format)
    exact_bins = not histogram.format.bin_shift
    counts = histogram.counts[table.ascending]
    values = table.values[table.ascending]
    occupied = np.flatnonzero(counts)
    counts, values = counts[occupied], values[occupied]
    by_magnitude = _by_magnitude(histogram, table)
    num_zero = int(by_magnitude[0]) if exact_bins else histogram.num_zero
    num_tiny = int(by_magnitude[: _first_normal_bin(histogram)].sum())
    minimum, maximum = _extremes(values) if exact_bins else (histogram.minimum, histogram.maximum)
    if not values.size:
        minimum = maximum = math.nan
    by_magnitude[0] = 0
    return TensorStatistics(
        name=tensor.name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        num_elements=tensor.num_elements,
        num_nan=histogram.num_nan,
        num_infinite=histogram.num_infinite,
        num_zero=num_zero,
        num_subnormal=num_tiny - num_zero,
        minimum=minimum,
        maximum=maximum,
        absmax=max(abs(minimum), abs(maximum)),
        tail=_tail(by_magnitude, table),
        magnitude_99=_beyond(by_magnitude, table, 0.01) if by_magnitude.any() else 0.0,
        histogram=_bars(histogram, table),
        **_centre(values, counts),
    )


def _first_normal_bin(histogram: BitHistogram) -> int:
    return histogram.format.smallest_normal >> histogram.format.bin_shift


def _by_magnitude(histogram: BitHistogram, table: BinTable) -> Counts:
    """Counts of the finite bins with both signs together, int64[num_finite]."""
    positive = histogram.counts[: table.num_finite]
    return positive + histogram.counts[SIGN_BIN : SIGN_BIN + table.num_finite]


def _extremes(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    return (float(values[0]), float(values[-1])) if values.size else (math.nan, math.nan)


def _centre(values: npt.NDArray[np.float64], counts: Counts) -> dict[str, Any]:
    """Moments and quantiles of sorted `values` that occur `counts` times."""
    if not values.size:
        nothing = math.nan
        return {
            "mean": nothing, "std": nothing, "median": nothing, "mad": nothing,
            "quantiles": tuple((p, nothing) for p in QUANTILES),
        }  # fmt: skip
    scale = max(abs(values[0]), abs(values[-1])) or 1.0  # squares of large fp64 overflow
    weights = counts / counts.sum()
    mean = float(weights @ (values / scale))
    std = math.sqrt(float(weights @ (values / scale - mean) ** 2))
    cumulative = np.cumsum(counts)
    median = _quantile(values, cumulative, 0.5)
    deviations = np.abs(values - median)
    order = np.argsort(deviations, kind="stable")
    mad = _quantile(deviations[order], np.cumsum(counts[order]), 0.5)
    return {
        "mean": float(mean * scale),
        "std": float(std * scale),
        "median": median,
        "mad": mad,
        "quantiles": tuple((p, _quantile(values, cumulative, p)) for p in QUANTILES),
    }


def _quantile(values: npt.NDArray[np.float64], cumulative: Counts, p: float) -> float:
    rank = max(1, math.ceil(p * int(cumulative[-1])))
    return float(values[np.searchsorted(cumulative, rank)])


def _tail(by_magnitude: Counts, table: BinTable) -> tuple[TailPoint, TailPoint] | None:
    num_elements = int(by_magnitude.sum())
    end = max(TAIL_END, MIN_TAIL_ELEMENTS / max(num_elements, 1))
    start = min(end * TAIL_START / TAIL_END, 0.5)
    if end >= start:
        return None
    return (
        TailPoint(start, _beyond(by_magnitude, table, start)),
        TailPoint(end, _beyond(by_magnitude, table, end)),
    )


def _beyond(by_magnitude: Counts, table: BinTable, probability: float) -> float:
    """The magnitude that the share `probability` of the elements exceeds."""
    cumulative = np.cumsum(by_magnitude)
    rank = max(1, math.ceil((1 - probability) * int(cumulative[-1])))
    return float(table.values[np.searchsorted(cumulative, rank)])


def _bars(histogram: BitHistogram, table: BinTable) -> tuple[HistogramBar, ...]:
    """Half-octave bars of both signs."""
    octaves = table.half_octaves[1:]
    first = int(octaves[0])
    sides = [
        np.bincount(octaves - first, weights=histogram.counts[start + 1 : start + table.num_finite])
        for start in (SIGN_BIN, 0)
    ]
    return tuple(
        HistogramBar(first + at, int(sides[0][at]), int(sides[1][at]))
        for at in np.flatnonzero(sides[0] + sides[1]).tolist()
    )
