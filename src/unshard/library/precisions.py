"""What a model can be computed in: the names of `--dtype`, and what weights take in each."""

from __future__ import annotations

from dataclasses import dataclass, replace

from unshard.dtypes import BFLOAT16, FLOAT16, FLOAT32, DType

_GROUPS = (128, 64, 32)
"""How many 4-bit values of a row share a scale and a centre of 16 bits each: the first that divides
the row."""


@dataclass(frozen=True, slots=True)
class Precision:
    """One of them: `name` is the command line's."""

    name: str
    exact: DType
    """Of embeddings, norms, biases and rows, and of matrices that are not rounded. A table of
    tokens that is looked up and no more may have fewer bits: `room.table_dtype`."""
    matrix_bits: int | None = None
    """Of a value in a matrix that is rounded; None where none is."""
    keeps_values: bool = False
    """Whether a rounded matrix is in memory as its values, in `exact`: nothing is saved."""

    def held(self, *, by_native_kernels: bool) -> Precision:
        """As the weights are in memory: 8 bits are multiplied as such by the native kernels alone,
        so on no GPU."""
        return self if by_native_kernels else replace(self, keeps_values=self.matrix_bits == 8)

    def matrix_bytes(self, shape: tuple[int, ...]) -> int:
        """What a matrix (out, in) takes to be multiplied with, scales included."""
        rows, columns = shape
        group = int4_group(columns) if self.matrix_bits == 4 else columns
        if self.matrix_bits is None or self.keeps_values or group is None:
            return rows * columns * self.exact.itemsize_bytes
        return rows * (columns * self.matrix_bits + 32 * columns // group) // 8


FP32 = Precision("fp32", FLOAT32)
BF16 = Precision("bf16", BFLOAT16)
FP16 = Precision("fp16", FLOAT16)
INT8 = Precision("int8", FLOAT32, 8)
INT4 = Precision("int4", BFLOAT16, 4)
PRECISIONS = {each.name: each for each in (FP32, BF16, FP16, INT8, INT4)}


def output_bits(matrix_bits: int | None) -> int | None:
    """Of the output projection where other matrices have `matrix_bits`; None where it is exact.

    In 4 bits it would lose a quarter of all that is lost, and a tied one takes no memory of its own
    where it is exact.
    """
    return 8 if matrix_bits == 8 else None


def int4_group(columns: int) -> int | None:
    """How many values of such rows share a scale; None where they are not rounded to 4 bits."""
    return next((group for group in _GROUPS if columns % group == 0), None)
