"""Floating-point formats as bit patterns: what a pattern is worth, without computing with it.

A value's upper 16 bits are its *bin*. For fp16 and bf16 a bin is one value; for fp32 and
fp64 it is a narrow interval (relative width 2^-7 and 2^-4), represented by its middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from unshard.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, DType
from unshard.errors import UsageError
from unshard.execute.element_values import Bits, float64_values

NUM_BINS = 1 << 16
SIGN_BIN = 1 << 15
"""Bins from here on are the negative values, in the order of their magnitudes."""


@dataclass(frozen=True, slots=True)
class FloatFormat:
    """One IEEE-like format: sign, exponent, mantissa, from the highest bit down."""

    dtype: DType
    mantissa_bits: int

    @property
    def raw(self) -> str:
        """numpy's name of the unsigned integers that hold the patterns."""
        return f"<u{self.dtype.itemsize_bytes}"

    @property
    def bin_shift(self) -> int:
        """Low bits that a bin does not tell."""
        return 8 * self.dtype.itemsize_bytes - 16

    @property
    def magnitude_mask(self) -> int:
        """Everything but the sign; magnitudes compare as integers, NaNs are the largest."""
        return int((1 << (8 * self.dtype.itemsize_bytes - 1)) - 1)

    @property
    def infinity(self) -> int:
        """The pattern of +Inf; greater magnitudes are NaNs."""
        return self.magnitude_mask >> self.mantissa_bits << self.mantissa_bits

    @property
    def smallest_normal(self) -> int:
        return 1 << self.mantissa_bits

    def decode(self, bits: Bits) -> npt.NDArray[np.float64]:
        """The values of patterns, exactly."""
        return float64_values(bits, self.dtype)


FORMATS = {
    FLOAT16: FloatFormat(FLOAT16, 10),
    BFLOAT16: FloatFormat(BFLOAT16, 7),
    FLOAT32: FloatFormat(FLOAT32, 23),
    FLOAT64: FloatFormat(FLOAT64, 52),
}


def float_format(name: str, dtype: DType) -> FloatFormat:
    """The format of tensor `name`.

    Raises:
        UsageError: its elements are integers, whose health nothing here can judge.
    """
    if dtype not in FORMATS:
        known = ", ".join(dtype.name for dtype in FORMATS)
        raise UsageError(f"{name}: is {dtype.name}; the health of {known} weights can be told")
    return FORMATS[dtype]


@dataclass(frozen=True)
class BinTable:
    """What is known of the bins of one format, once and for all."""

    values: npt.NDArray[np.float64]
    """Of each bin, float64[65536]; the bins of Inf and NaN hold 0."""
    num_finite: int
    """Finite bins of one sign: magnitudes 0 to num_finite - 1."""
    half_octaves: npt.NDArray[np.intp]
    """floor(2 log2 |value|) of the finite magnitudes; of 0, what the smallest has."""


@cache
def bin_table(form: FloatFormat) -> BinTable:
    """The table of one format (1 MB, kept)."""
    num_finite = form.infinity >> form.bin_shift
    magnitudes = np.arange(num_finite, dtype=np.uint64)
    middle = np.uint64((1 << form.bin_shift) >> 1)
    patterns = (magnitudes << np.uint64(form.bin_shift)) | middle
    positive = form.decode(patterns.astype(form.raw))
    positive[0] = 0.0
    values = np.zeros(NUM_BINS)
    values[:num_finite] = positive
    values[SIGN_BIN : SIGN_BIN + num_finite] = -positive
    half_octaves = np.floor(2 * np.log2(np.maximum(positive, positive[1]))).astype(np.intp)
    return BinTable(values, num_finite, half_octaves)
