"""One tensor-parallel rank's tensors, as boxes of whole ones laid below each other."""

from __future__ import annotations

from collections.abc import Iterable

from unshard.dtypes import DType
from unshard.errors import CheckpointError
from unshard.plan.copy_plan import Box, Region, TargetTensor
from unshard.tensors import LogicalTensor, Shape


def common_dtype(name: str, tensors: Iterable[LogicalTensor]) -> DType:
    """The dtype of the tensors that `name` is made of.

    Raises:
        CheckpointError: they differ.
    """
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) != 1:
        kinds = " and ".join(sorted(dtype.name for dtype in dtypes))
        raise CheckpointError(
            f"{name}: {kinds} tensors cannot be one tensor", hint="cast them all with --dtype"
        )
    return dtypes.pop()


def stacked(name: str, dtype: DType, pieces: Iterable[tuple[str, Box]]) -> TargetTensor:
    """A tensor whose rows are those of boxes of source tensors, one below the other."""
    regions: list[Region] = []
    rows = 0
    shape: Shape = ()
    for source, box in pieces:
        at = tuple(rows if dim == 0 else 0 for dim in range(len(box.sizes)))
        regions.append(Region(source, box, at))
        rows += box.sizes[0] if box.sizes else 0
        shape = tuple(rows if dim == 0 else size for dim, size in enumerate(box.sizes))
    return TargetTensor(name, dtype, shape, tuple(regions))
