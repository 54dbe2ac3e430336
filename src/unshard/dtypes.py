"""Element types that a checkpoint can hold, under every name the formats give them."""

from __future__ import annotations

from dataclasses import dataclass

from unshard.errors import UsageError


@dataclass(frozen=True)
class DType:
    """One element type. `name` is the field's short name, used in the CLI and in plans."""

    name: str
    itemsize_bytes: int
    torch_storage: str
    """Name of the legacy storage class that `torch.save` pickles (`torch.HalfStorage`)."""
    safetensors: str
    numpy: str
    """A numpy dtype of the same width; equal in meaning except for bf16, which numpy lacks."""


FLOAT16 = DType("fp16", 2, "HalfStorage", "F16", "<f2")
BFLOAT16 = DType("bf16", 2, "BFloat16Storage", "BF16", "<u2")
FLOAT32 = DType("fp32", 4, "FloatStorage", "F32", "<f4")
FLOAT64 = DType("fp64", 8, "DoubleStorage", "F64", "<f8")
INT8 = DType("int8", 1, "CharStorage", "I8", "|i1")
UINT8 = DType("uint8", 1, "ByteStorage", "U8", "|u1")
INT16 = DType("int16", 2, "ShortStorage", "I16", "<i2")
INT32 = DType("int32", 4, "IntStorage", "I32", "<i4")
INT64 = DType("int64", 8, "LongStorage", "I64", "<i8")
BOOL = DType("bool", 1, "BoolStorage", "BOOL", "|b1")

FLOATS = frozenset({FLOAT16, BFLOAT16, FLOAT32, FLOAT64})
ALL = (FLOAT16, BFLOAT16, FLOAT32, FLOAT64, INT8, UINT8, INT16, INT32, INT64, BOOL)
BY_NAME = {d.name: d for d in ALL}
BY_TORCH_STORAGE = {d.torch_storage: d for d in ALL}
BY_SAFETENSORS = {d.safetensors: d for d in ALL}


def parse_dtype(name: str) -> DType:
    """The dtype called `name` (`fp16`, `bf16`, `fp32`, …).

    Raises:
        UsageError: no dtype has that name.
    """
    if name not in BY_NAME:
        raise UsageError(f"unknown dtype {name!r}", hint=f"use one of {', '.join(BY_NAME)}")
    return BY_NAME[name]
