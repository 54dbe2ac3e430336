"""How a logical tensor is spread over tensor-parallel ranks.

Same words as torch's DTensor placements, for one mesh dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from unshard.errors import CheckpointError
from unshard.tensors import UNCUT, Chunk, Cut, LogicalTensor, Shape, TensorRef


@dataclass(frozen=True, slots=True)
class Shard:
    """Rank t of T holds the t-th of T equal slices along `dim`."""

    dim: int


@dataclass(frozen=True, slots=True)
class Replicate:
    """Every rank holds the whole tensor."""


Placement = Shard | Replicate


def local_box(
    name: str, shape: Shape, placement: Placement, tp_rank: int, tp_size: int
) -> tuple[Shape, Shape]:
    """Offsets and sizes of the box of `shape` that rank `tp_rank` of `tp_size` holds.

    Raises:
        CheckpointError: the sharded dimension does not divide by `tp_size`.
    """
    offsets, sizes = [0] * len(shape), list(shape)
    if isinstance(placement, Shard):
        size, remainder = divmod(shape[placement.dim], tp_size)
        if remainder:
            raise CheckpointError(
                f"{name}: dimension {placement.dim} of {shape} does not divide by {tp_size} "
                "tensor-parallel ranks"
            )
        offsets[placement.dim], sizes[placement.dim] = tp_rank * size, size
    return tuple(offsets), tuple(sizes)


def finest_cut(shape: Shape, placement: Placement, num_heads: int) -> Cut:
    """The finest cut that any tensor-parallel size can need: every size that the heads and
    the sharded dimension both divide by cuts only between these slices."""
    if isinstance(placement, Shard):
        return Cut(placement.dim, math.gcd(shape[placement.dim], num_heads))
    return UNCUT


def assembled(
    name: str,
    shape: Shape,
    placement: Placement,
    refs: Sequence[TensorRef],
    copies: Sequence[TensorRef] = (),
    cut: Cut = UNCUT,
) -> LogicalTensor:
    """The whole tensor of `shape` from what every tensor-parallel rank stores of it, in rank
    order, and from further `copies`.

    Raises:
        CheckpointError: the sharded dimension does not divide by the number of ranks.
    """
    held = refs[:1] if isinstance(placement, Replicate) else refs
    chunks = tuple(
        Chunk(local_box(name, shape, placement, rank, len(refs))[0], ref)
        for rank, ref in enumerate(held)
    )
    replicas = (*refs[len(held) :], *copies)
    return LogicalTensor(name, refs[0].dtype, shape, chunks, replicas, cut)
