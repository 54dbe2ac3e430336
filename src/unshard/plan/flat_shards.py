"""Tensors laid end to end and cut into equal shards, the last ones filled with zeros.

fairscale's rule for the flat parameters of FSDP, and for an optimizer's state of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from unshard.errors import CheckpointError
from unshard.index.fsdp import padding_of, share
from unshard.plan.copy_plan import Span, TargetTensor
from unshard.plan.torch_archive import TargetStorage


def cut_into_shards(name: str, tensors: Sequence[TargetTensor], count: int) -> list[TargetStorage]:
    """The `count` shards of `tensors`, laid end to end as the flat parameter `name`; each is a
    storage of ceil(total / count) elements.

    Raises:
        CheckpointError: the tensors differ in dtype, or there are none.
    """
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) != 1:
        kinds = " and ".join(sorted(dtype.name for dtype in dtypes)) or "nothing"
        raise CheckpointError(f"{name}: {kinds} cannot be one flat parameter")
    [dtype] = dtypes
    total = sum(tensor.num_elements for tensor in tensors)
    each = share(total, count)
    shards = []
    for rank in range(count):
        fill = padding_of(total, rank, count)
        start, size = rank * each, dtype.itemsize_bytes
        spans = tuple(_spans(tensors, start * size, (start + each - fill) * size))
        shards.append(TargetStorage(dtype, spans, fill))
    return shards


def _spans(tensors: Sequence[TargetTensor], start: int, stop: int) -> Iterator[Span]:
    """Bytes `[start, stop)` of the concatenation."""
    for tensor in tensors:
        first, last = max(start, 0), min(stop, tensor.num_bytes)
        if first < last:
            yield Span(tensor, first, last)
        start, stop = start - tensor.num_bytes, stop - tensor.num_bytes
