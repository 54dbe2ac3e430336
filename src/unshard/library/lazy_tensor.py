"""One weight, or a slice of one, that is read when its values are asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from unshard.dtypes import BFLOAT16, DType
from unshard.errors import UsageError
from unshard.library.deferred import deferred
from unshard.library.indexing import Axis, Index, all_of, select
from unshard.library.read import Bits, read_elements
from unshard.tensors import LogicalTensor, Shape

if TYPE_CHECKING:
    from torch import Tensor

_from_bits = deferred(
    "unshard.execute.model_sink", "from_bits", hint="pip install torch, or use .numpy()"
)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LazyTensor:
    """A tensor of a checkpoint that nobody has read yet.

    Indexing gives another one and reads nothing; `numpy`, `torch`, `bits` and `np.asarray`
    read what it stands for, each time anew, and hold no file open afterwards. It may be used
    by several threads and pickled to other processes. The files must not change meanwhile.
    """

    stored: LogicalTensor
    axes: tuple[Axis, ...]

    @property
    def name(self) -> str:
        """The canonical name of the whole tensor."""
        return self.stored.name

    @property
    def dtype(self) -> DType:
        """The stored element type."""
        return self.stored.dtype

    @property
    def shape(self) -> Shape:
        return tuple(len(axis) for axis in self.axes if isinstance(axis, range))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.dtype.itemsize_bytes

    @property
    def nbytes(self) -> int:
        """Bytes of all its elements."""
        return math.prod(self.shape) * self.itemsize

    @property
    def ranges(self) -> tuple[range, ...]:
        """The indices of every stored dimension that it stands for."""
        return tuple(
            axis if isinstance(axis, range) else range(axis, axis + 1) for axis in self.axes
        )

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a tensor without dimensions has no length")
        return self.shape[0]

    def __getitem__(self, index: Index) -> LazyTensor:
        """The part that numpy's basic indexing means: integers, slices and `...`.

        Raises:
            IndexError: an index is out of range or of another kind.
        """
        return replace(self, axes=select(self.axes, index))

    def __repr__(self) -> str:
        return f"<LazyTensor {self.name}: {self.dtype.name} {self.shape}>"

    def numpy(self, dtype: npt.DTypeLike | None = None) -> npt.NDArray[Any]:
        """The values as a new array of the stored dtype, or converted to `dtype`.

        Raises:
            UsageError: they are bf16, which numpy lacks, and no `dtype` is asked for.
            FormatError: a file is shorter than its headers said.
        """
        if self.dtype is not BFLOAT16:
            values = self.bits().view(self.dtype.numpy)
            return values if dtype is None else values.astype(dtype, copy=False)
        if dtype is None:
            raise UsageError(
                f"{self.name}: numpy has no bf16",
                hint=".numpy(dtype='float32') widens it, which is exact; .torch() keeps it; "
                ".bits() gives its 16 bits",
            )
        widened = self.bits().astype("<u4")
        widened <<= 16
        return widened.view("<f4").astype(dtype, copy=False)

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError(f"{self.name}: reading it always makes a new array")
        return self.numpy(dtype)

    def bits(self) -> Bits:
        """The stored bits as a new array of unsigned integers of the same width.

        Raises:
            FormatError: a file is shorter than its headers said.
        """
        return read_elements(self.stored, self.ranges).reshape(self.shape)

    def torch(self) -> Tensor:
        """The values as a new CPU tensor of the stored dtype.

        Raises:
            UsageError: torch is not installed.
            FormatError: a file is shorter than its headers said.
        """
        tensor: Tensor = _from_bits(self.bits(), self.dtype)
        return tensor


def whole_tensor(tensor: LogicalTensor) -> LazyTensor:
    """All of `tensor`."""
    return LazyTensor(tensor, all_of(tensor.shape))
