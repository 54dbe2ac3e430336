"""Tensors laid end to end and cut into equal shards, the last ones filled with zeros.

fairscale's rule for the flat parameters of FSDP, and for an optimizer's state of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unshard.errors import CheckpointError
from unshard.formats.records import PickledObject
from unshard.index.fsdp import padding_of, share
from unshard.plan.copy_plan import Span, TargetTensor
from unshard.plan.torch_archive import TargetStorage, pickled_tensor


def flat_shards(name: str, tensors: Sequence[TargetTensor], count: int) -> list[PickledObject]:
    """The `count` shards of `tensors`, laid end to end as the flat parameter `name`; each pickles
    as a vector of ceil(total / count) elements with a storage of its own.

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
        spans = tuple(_spans(tensors, start * size, (start + each) * size))
        shards.append(pickled_tensor(TargetStorage(dtype, spans, fill), 0, (each,)))
    return shards


def sharded_values(
    values: Mapping[str, Any], moments: Mapping[str, Sequence[PickledObject]], count: int
) -> list[dict[str, Any]]:
    """What an optimizer keeps of one flat parameter, in each of `count` shards: its `moments` are
    cut like the weights, its other `values` are the same everywhere."""
    return [
        {key: moments[key][shard] if key in moments else values[key] for key in values}
        for shard in range(count)
    ]


def _spans(tensors: Sequence[TargetTensor], start: int, stop: int) -> Iterator[Span]:
    """Bytes `[start, stop)` of the concatenation."""
    for tensor in tensors:
        first, last = max(start, 0), min(stop, tensor.num_bytes)
        if first < last:
            yield Span(tensor, first, last)
        start, stop = start - tensor.num_bytes, stop - tensor.num_bytes
