"""Stored elements as numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from unshard.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, DType

FLOATS = (FLOAT16, BFLOAT16, FLOAT32, FLOAT64)

Bits = npt.NDArray[Any]
"""Elements as unsigned integers of the dtype's width."""


def widened(bits: Bits, dtype: DType) -> npt.NDArray[Any]:
    """The elements as float32, which holds all of fp16, bf16 and fp32 exactly; those of other
    dtypes as they are."""
    if dtype is BFLOAT16:
        return (bits.astype("<u4") << np.uint32(16)).view("<f4")
    values = bits.view(dtype.numpy)
    return values.astype(np.float32) if dtype is FLOAT16 else values


def float64_values(bits: Bits, dtype: DType) -> npt.NDArray[np.float64]:
    """The elements as float64: exact, but for integers beyond 2^53."""
    with np.errstate(invalid="ignore"):  # a signalling NaN is a value like any other here
        return widened(bits, dtype).astype(np.float64)
