"""Stored elements as numbers, and cast from one floating-point type to another."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from unshard.dtypes import BFLOAT16, FLOAT16, FLOAT64, FLOATS, DType
from unshard.errors import UsageError

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


def refuse_cast(name: str, source: DType, target: DType) -> None:
    """
    Raises:
        UsageError: elements of `source` cannot become `target`.
    """
    if source is not target and not {source, target} <= FLOATS:
        raise UsageError(f"{name}: cannot cast {source.name} to {target.name}")


def cast(bits: Bits, source: DType, target: DType) -> Bits:
    """Elements of `source` as `target`, rounded to nearest even; values beyond its range become
    infinite, as in torch."""
    values = bits.view(_array_type(source))
    with np.errstate(over="ignore", invalid="ignore"):
        if FLOAT64 not in (source, target):  # exact, and faster than between 16-bit types
            values = values.astype(np.float32, copy=False)
        found = values.astype(_array_type(target), copy=False)
    return found.view(f"u{target.itemsize_bytes}")


def _array_type(dtype: DType) -> npt.DTypeLike:
    """What numpy computes with; bf16 comes from ml_dtypes."""
    return ml_dtypes.bfloat16 if dtype is BFLOAT16 else dtype.numpy
