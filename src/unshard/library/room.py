"""Whether weights fit the memory: what loading does, and what a plan says of it before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from unshard.architectures.opt import weight_names
from unshard.dtypes import BFLOAT16, FLOAT16, DType
from unshard.index.checkpoint import Checkpoint
from unshard.library.precisions import Precision, output_bits
from unshard.tensors import ByteRange, LogicalTensor, TensorIndex

_TOKENS = "decoder.embed_tokens.weight"
_EMBEDDINGS = {_TOKENS, "decoder.embed_positions.weight"}
_OUTPUT = "decoder.output_projection.weight"


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


def weight_bytes(checkpoint: Checkpoint, precision: Precision) -> dict[str, int]:
    """What each weight takes in memory, by name. An output projection that is rounded is so apart
    from the embeddings that it is tied to."""
    index = checkpoint.index
    is_rounded = output_bits(precision.matrix_bits) is not None
    rounded_too = {_TOKENS} if is_rounded and checkpoint.config.tied_embeddings else set()
    exact = _EMBEDDINGS if is_rounded else {*_EMBEDDINGS, _OUTPUT}
    found = {}
    for name in weight_names(index):
        tensor = index[name]
        if precision.matrix_bits and len(tensor.shape) == 2 and name not in exact:
            found[name] = precision.matrix_bytes(tensor.shape)
            continue
        dtype = table_dtype(checkpoint, precision) if name == _TOKENS else precision.exact
        found[name] = tensor.num_elements * dtype.itemsize_bytes
        if name in rounded_too:
            found[name] += precision.matrix_bytes(tensor.shape)
    return found


def table_dtype(checkpoint: Checkpoint, precision: Precision) -> DType:
    """Of the embedding table in memory. One that is looked up and no more, as the output projection
    is rounded, stays in the 16 bits of the file: to widen rows as they are looked up is exact."""
    is_looked_up_only = output_bits(precision.matrix_bits) is not None
    stored = checkpoint.index.get(_TOKENS)
    if is_looked_up_only and stored is not None and stored.dtype in {FLOAT16, BFLOAT16}:
        return stored.dtype
    return precision.exact


def mappable_weights(index: TensorIndex, precision: Precision) -> dict[str, ByteRange]:
    """Where the matrices lie that one file has whole, and as they are computed with."""
    if precision.matrix_bits:
        return {}
    matrices = (name for name in weight_names(index) if len(index[name].shape) == 2)
    found = {name: _whole_range(index[name], precision.exact) for name in matrices}
    return {name: stored for name, stored in found.items() if stored is not None}


def _whole_range(tensor: LogicalTensor, dtype: DType) -> ByteRange | None:
    if tensor.dtype != dtype or tensor.replicas or len(tensor.chunks) != 1:
        return None
    (chunk,) = tensor.chunks
    ranges = chunk.ref.ranges
    if chunk.sizes != tensor.shape or len(ranges) != 1:
        return None
    return None if ranges[0].offset % dtype.itemsize_bytes else ranges[0]
