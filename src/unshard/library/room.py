"""Whether weights fit the memory: what loading does, and what a plan says of it before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from unshard.dtypes import DType
from unshard.tensors import ByteRange, LogicalTensor, TensorIndex


class Weights(StrEnum):
    """What becomes of a model's weights."""

    IN_MEMORY = "memory"
    MAPPED = "mapped"
    """They stay in the files, read again where memory is short."""
    REFUSED = "refused"


def fate(num_bytes: Mapping[str, int], in_files: Iterable[str], free_bytes: int) -> Weights:
    """Of weights that take `num_bytes` each, by name, beside nothing else in `free_bytes`;
    `in_files` are those that could be used where they lie."""
    needed_bytes = sum(num_bytes.values())
    if needed_bytes <= free_bytes:
        return Weights.IN_MEMORY
    left_bytes = needed_bytes - sum(num_bytes[name] for name in in_files)
    return Weights.MAPPED if left_bytes <= free_bytes else Weights.REFUSED


def mappable(index: TensorIndex, names: Iterable[str], dtype: DType) -> dict[str, ByteRange]:
    """Where those of `names` lie that one file has whole and in `dtype`."""
    found = {name: _whole_range(index[name], dtype) for name in names}
    return {name: stored for name, stored in found.items() if stored is not None}


def _whole_range(tensor: LogicalTensor, dtype: DType) -> ByteRange | None:
    if tensor.dtype != dtype or tensor.replicas or len(tensor.chunks) != 1:
        return None
    (chunk,) = tensor.chunks
    ranges = chunk.ref.ranges
    if chunk.sizes != tensor.shape or len(ranges) != 1:
        return None
    return None if ranges[0].offset % dtype.itemsize_bytes else ranges[0]
