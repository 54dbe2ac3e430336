"""Casting elements between the floating-point types of checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from unshard.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, DType
from unshard.errors import UsageError

ARRAY_TYPES: Mapping[DType, npt.DTypeLike] = {
    FLOAT16: np.float16,
    BFLOAT16: ml_dtypes.bfloat16,
    FLOAT32: np.float32,
    FLOAT64: np.float64,
}
"""What numpy computes with; bf16 comes from ml_dtypes."""


def refuse_cast(name: str, source: DType, target: DType) -> None:
    """
    Raises:
        UsageError: elements of `source` cannot become `target`.
    """
    if source is not target and not {source, target} <= ARRAY_TYPES.keys():
        raise UsageError(f"{name}: cannot cast {source.name} to {target.name}")


def cast(elements: npt.NDArray[Any], source: DType, target: DType) -> npt.NDArray[Any]:
    """`elements` (bit patterns of `source`) as bit patterns of `target`, rounded to nearest
    even; values beyond its range become infinite, as in torch."""
    values = elements.view(ARRAY_TYPES[source])
    with np.errstate(over="ignore", invalid="ignore"):
        if FLOAT64 not in (source, target):  # exact, and faster than between 16-bit types
            values = values.astype(np.float32, copy=False)
        found = values.astype(ARRAY_TYPES[target], copy=False)
    return found.view(f"u{target.itemsize_bytes}")
