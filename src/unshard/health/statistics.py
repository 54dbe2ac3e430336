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

MAGNITUDE = SIGN_BIN - 1
"""The part of a bin that is not its sign."""

Counts = npt.NDArray[np.int64]
Bins = npt.NDArray[np.intp]
Values = npt.NDArray[np.float64]


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
    form, table = histogram.format, bin_table(histogram.format)
    bins = np.flatnonzero(histogram.counts)
    bins = bins[(bins & MAGNITUDE) < table.num_finite]
    counts, values = histogram.counts[bins], table.values[bins]
    is_tiny = (bins & MAGNITUDE) < form.smallest_normal >> form.bin_shift
    num_zero = histogram.num_zero if form.bin_shift else int(counts[values == 0].sum())
    num_positive = int(np.searchsorted(bins, SIGN_BIN))
    ascending = np.concatenate([np.arange(bins.size)[num_positive:][::-1], np.arange(num_positive)])
    centre = _centre(values[ascending], counts[ascending])
    minimum, maximum = _extremes(histogram, values)
    return TensorStatistics(
        name=tensor.name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        num_elements=tensor.num_elements,
        num_nan=histogram.num_nan,
        num_infinite=histogram.num_infinite,
        num_zero=num_zero,
        num_subnormal=int(counts[is_tiny].sum()) - num_zero,
        minimum=minimum,
        maximum=maximum,
        absmax=max(abs(minimum), abs(maximum)),
        histogram=_bars(bins, counts, table),
        **centre,
        **_tail(*_magnitudes(bins, values, counts)),
    )


def _extremes(histogram: BitHistogram, values: Values) -> tuple[float, float]:
    if not values.size:
        return math.nan, math.nan
    if histogram.format.bin_shift:
        return histogram.minimum, histogram.maximum
    return float(values.min()), float(values.max())


def _centre(values: Values, counts: Counts) -> dict[str, Any]:
    """Moments and quantiles of sorted `values` that occur `counts` times."""
    if not values.size:
        nothing = math.nan
        return {
            "mean": nothing, "std": nothing, "median": nothing, "mad": nothing,
            "quantiles": tuple((p, nothing) for p in QUANTILES),
        }  # fmt: skip
    scale = max(abs(values[0]), abs(values[-1])) or 1.0  # squares of large fp64 overflow
    weights = counts / counts.sum()
    mean = float((weights * (values / scale)).sum())  # `@` would wake BLAS's own threads
    std = math.sqrt(float((weights * (values / scale - mean) ** 2).sum()))
    cumulative = np.cumsum(counts)
    median = _quantile(values, cumulative, 0.5)
    deviations = np.abs(values - median)
    order = np.argsort(deviations, kind="stable")  # two sorted runs: a merge
    mad = _quantile(deviations[order], np.cumsum(counts[order]), 0.5)
    return {
        "mean": float(mean * scale),
        "std": float(std * scale),
        "median": median,
        "mad": mad,
        "quantiles": tuple((p, _quantile(values, cumulative, p)) for p in QUANTILES),
    }


def _quantile(values: Values, cumulative: Counts, p: float) -> float:
    rank = max(1, math.ceil(p * int(cumulative[-1])))
    return float(values[np.searchsorted(cumulative, rank)])


def _magnitudes(bins: Bins, values: Values, counts: Counts) -> tuple[Values, Counts]:
    """Sorted magnitudes of the values other than zero (repeated where both signs occur), and
    how many elements each counts together with all smaller ones."""
    order = np.argsort((bins & MAGNITUDE).astype(np.uint16), kind="stable")  # a radix sort
    order = order[values[order] != 0]
    return np.abs(values[order]), np.cumsum(counts[order])


def _tail(magnitudes: Values, cumulative: Counts) -> dict[str, Any]:
    if not magnitudes.size:
        return {"tail": None, "magnitude_99": 0.0}

    def point(beyond: float) -> TailPoint:
        return TailPoint(beyond, _quantile(magnitudes, cumulative, 1 - beyond))

    end = max(TAIL_END, MIN_TAIL_ELEMENTS / int(cumulative[-1]))
    start = min(end * TAIL_START / TAIL_END, 0.5)
    return {
        "tail": (point(start), point(end)) if end < start else None,
        "magnitude_99": point(0.01).magnitude,
    }


def _bars(bins: Bins, counts: Counts, table: BinTable) -> tuple[HistogramBar, ...]:
    """Half-octave bars of both signs."""
    nonzero = table.values[bins] != 0
    bins, counts = bins[nonzero], counts[nonzero]
    half_octaves = table.half_octaves[bins & MAGNITUDE]
    first = int(half_octaves.min(initial=0))
    both = np.bincount(half_octaves - first, weights=counts)
    negative = np.bincount(
        half_octaves - first, weights=np.where(bins >= SIGN_BIN, counts, 0), minlength=both.size
    )
    return tuple(
        HistogramBar(first + at, int(negative[at]), int(both[at] - negative[at]))
        for at in np.flatnonzero(both).tolist()
    )
