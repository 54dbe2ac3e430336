"""Copies of replicated tensors that may differ a little, as metaseq's `reshard_mp` lets them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from unshard.errors import CheckpointError
from unshard.execute.blocks import Buffers, elements_of, same_bytes, stream
from unshard.execute.element_values import float64_values
from unshard.execute.reader import Reader
from unshard.plan.copy_plan import CopyPlan
from unshard.tensors import LogicalTensor, TensorRef


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
    theirs = LogicalTensor.of(replica)
    with Reader() as reader:
        left = stream(mine, reader, Buffers())
        right = stream(theirs, reader, Buffers())
        for one, two in zip(left, right, strict=True):
            if not same_bytes(one, two):
                values = [
                    float64_values(elements_of(tensor, block), tensor.dtype) for block in (one, two)
                ]
                yield float(np.max(np.abs(values[0] - values[1])))
