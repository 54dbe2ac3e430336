"""Copies of replicated tensors that may differ a little, as metaseq's `reshard_mp` lets them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from unshard.errors import CheckpointError
from unshard.execute.blocks import Buffers, stream
from unshard.execute.casts import ARRAY_TYPES
from unshard.execute.reader import Reader
from unshard.plan.copy_plan import CopyPlan
from unshard.plan.lower import lower_whole
from unshard.tensors import Chunk, LogicalTensor, TensorRef


def accept_close_replicas(plan: CopyPlan, eps: float) -> CopyPlan:
    """The plan without its replicas, of which no element differs by more than `eps` from the
    tensor that is kept.

    Raises:
        CheckpointError: one does; the message names the tensor, both files and the difference.
        FormatError: a file is shorter than its headers said.
    """
    kept = {}
    for name, tensor in plan.sources.items():
        for replica in tensor.replicas:
            found = max(_differences(tensor, replica), default=0.0)
            if not found <= eps:  # which a NaN is not
                raise CheckpointError(
                    f"{name}: the copies in {tensor.chunks[0].ref.ranges[0].path} and "
                    f"{replica.ranges[0].path} differ by up to {found:g}",
                    hint=f"--eps {found!r} takes the first one all the same",
                )
        kept[name] = replace(tensor, replicas=())
    return replace(plan, sources=kept)


def _differences(tensor: LogicalTensor, replica: TensorRef) -> Iterator[float]:
    """The largest difference in each block of elements."""
    mine = replace(tensor, replicas=())
    theirs = LogicalTensor(
        tensor.name, tensor.dtype, tensor.shape, (Chunk((0,) * len(tensor.shape), replica),)
    )
    with Reader() as reader:
        left = stream(lower_whole(mine), reader, Buffers())
        right = stream(lower_whole(theirs), reader, Buffers())
        for one, two in zip(left, right, strict=True):
            if one != two:
                yield float(np.max(np.abs(_values(tensor, one) - _values(tensor, two))))


def _values(tensor: LogicalTensor, block: memoryview) -> npt.NDArray[np.float64]:
    kind = ARRAY_TYPES.get(tensor.dtype, tensor.dtype.numpy)
    return np.frombuffer(block, kind).astype(np.float64)
